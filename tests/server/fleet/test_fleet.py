"""A fleet from its making to a device that joins, is listed, renewed and revoked: by the commands."""

import re
import stat
import time
from datetime import timedelta

import pytest

from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.identity import Identity
from fedloom_client.device.joining import Invitation
from fedloom_edge.cli import main
from fedloom_edge.errors import LinkError
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.store.run_store import DATABASE, RunStore


@pytest.fixture
def fedloom(capsys):
    def run(*argv):
        code = main([*map(str, argv)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def door(tmp_path, fedloom):
    """A fleet with a coordinator that enrols; gives the folder and the enrolment's address."""
    fleet_folder = tmp_path / "fleet"
    assert fedloom("fleet", "init", "127.0.0.1", "localhost", "--fleet", fleet_folder)[0] == 0
    with RunStore.create(tmp_path / "run", {}):
        fleet = Fleet(fleet_folder)
        coordinator = Coordinator(
            fleet,
            Inbox(tmp_path / "run" / "inbox"),
            DeviceLog(tmp_path / "run" / DATABASE),
            run="r",
            task="t",
            task_digest=b"",
        ).start("127.0.0.1:0", "127.0.0.1:0")
        yield fleet_folder, f"127.0.0.1:{coordinator.enrol_port}"
        coordinator.stop("over")
        fleet.close()


def invite(fedloom, folder, address, name="pi-kitchen", *options):
    code, out, _ = fedloom("fleet", "invite", name, "--address", address, "--fleet", folder, *options)
    assert code == 0
    return out.split()[3:]


def test_a_device_joins_with_the_printed_line_and_its_files_are_private(fedloom, door, tmp_path):
    folder, address = door
    home = tmp_path / "home"
    line = invite(fedloom, folder, address)
    code, out, err = fedloom("device", "join", *line, "--home", home, "--task", "digits")
    assert code == 0, err
    assert "pi-kitchen has joined" in out
    assert Identity.load(home).name == "pi-kitchen"
    assert DeviceSettings.load(home).coordinator.startswith("127.0.0.1:")
    secrets = [*home.rglob("*.pem"), *home.rglob("*.toml"), *folder.glob("*")]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secrets} == {
        path.name: 0 for path in secrets
    }
    assert "pi-kitchen  valid" in re.sub(" +", "  ", fedloom("fleet", "list", "--fleet", folder)[1])
    assert "device       pi-kitchen" in fedloom("device", "status", "--home", home)[1]


def test_an_invitation_works_once(fedloom, door, tmp_path):
    folder, address = door
    line = invite(fedloom, folder, address)
    assert fedloom("device", "join", *line, "--home", tmp_path / "one")[0] == 0
    code, _, err = fedloom("device", "join", *line, "--home", tmp_path / "two")
    assert code == 2
    assert "token: the invitation of pi-kitchen was used before" in err
    assert not (tmp_path / "two" / "identity.pem").exists()


def test_an_expired_invitation_is_refused(fedloom, door, tmp_path):
    folder, address = door
    fleet = Fleet(folder)
    token = fleet.registry.invite("pi", -1.0)
    invitation = Invitation("pi", token, fleet.authority.fingerprint)
    fleet.close()
    code, _, err = fedloom("device", "join", address, invitation, "--home", tmp_path / "home")
    assert code == 2
    assert "token: the invitation of pi has expired" in err


def test_guessing_tokens_is_slowed_down(fedloom, door, tmp_path):
    folder, address = door
    real = invite(fedloom, folder, address)[1]
    guess = real.replace(real.split(".")[1], "guess")
    said = [fedloom("device", "join", address, guess, "--home", tmp_path / "home")[2] for _ in range(7)]
    assert "token: unknown" in said[0]
    assert "rate: too many attempts" in said[-1]


def test_a_coordinator_of_another_fleet_never_sees_the_token(fedloom, door, tmp_path):
    _, address = door
    other = Fleet.create(tmp_path / "other", ["127.0.0.1"])
    invitation = Invitation("pi", other.registry.invite("pi", 60), other.authority.fingerprint)
    code, _, err = fedloom("device", "join", address, invitation, "--home", tmp_path / "home")
    assert code == 2
    assert "another fleet" in err
    assert "nothing was sent" in err
    other.close()


@pytest.mark.parametrize("text", ["", "pi", "pi.token", "pi.token.short", "a.b.c.d"])
def test_an_invitation_cut_short_is_named(fedloom, text, tmp_path):
    code, _, err = fedloom("device", "join", "127.0.0.1:1", text, "--home", tmp_path)
    assert code == 2
    assert "copy the whole line" in err


def test_nothing_at_the_address_is_one_line(fedloom, tmp_path):
    invitation = Invitation("pi", "token", bytes(32))
    code, _, err = fedloom("device", "join", "127.0.0.1:1", invitation, "--home", tmp_path)
    assert code == 2
    assert "nothing enrols devices at 127.0.0.1:1" in err


def test_a_fleet_is_not_made_twice(fedloom, tmp_path):
    assert fedloom("fleet", "init", "--fleet", tmp_path / "f")[0] == 0
    code, _, err = fedloom("fleet", "init", "--fleet", tmp_path / "f")
    assert code == 2
    assert "holds a fleet already" in err


@pytest.mark.parametrize("name", ["", "Pi", "../x", "a b", "-a", "a" * 64])
def test_a_device_name_is_a_host_name(fedloom, tmp_path, name):
    fedloom("fleet", "init", "--fleet", tmp_path / "f")
    code, _, err = fedloom("fleet", "invite", f"{name}", "--fleet", tmp_path / "f")
    assert code == 2, err


def test_a_device_in_the_fleet_must_be_revoked_before_it_is_invited_again(fedloom, door, tmp_path):
    folder, address = door
    fedloom("device", "join", *invite(fedloom, folder, address), "--home", tmp_path / "one")
    code, _, err = fedloom("fleet", "invite", "pi-kitchen", "--fleet", folder)
    assert code == 2
    assert "revoke it first" in err
    assert fedloom("fleet", "revoke", "pi-kitchen", "--fleet", folder)[0] == 0
    line = invite(fedloom, folder, address)
    assert fedloom("device", "join", *line, "--home", tmp_path / "two")[0] == 0


def test_revoking_nobody_is_an_error(fedloom, tmp_path):
    fedloom("fleet", "init", "--fleet", tmp_path / "f")
    assert fedloom("fleet", "revoke", "pi", "--fleet", tmp_path / "f")[0] == 2


def test_a_request_for_another_key_or_no_request_is_refused(tmp_path):
    fleet = Fleet.create(tmp_path / "f", ["localhost"])
    for request in (b"", b"no request", b"x" * 9000):
        with pytest.raises(LinkError, match="request: "):
            fleet.authority.issue_device("pi", request)
    token = fleet.registry.invite("pi", 60)
    with pytest.raises(LinkError):
        fleet.registry.join(token, b"no request", fleet.authority)
    assert fleet.registry.invitations()[0][0] == "pi"  # a failed attempt does not use the token up
    fleet.close()


def test_the_coordinators_certificate_is_renewed_only_when_it_ends_soon(tmp_path, monkeypatch):
    fleet = Fleet.create(tmp_path / "f", ["coordinator.example", "127.0.0.1"])
    before = fleet.coordinator
    fleet.refresh()
    assert fleet.coordinator == before
    monkeypatch.setattr("fedloom_server.fleet.fleet.REFRESH_BEFORE", timedelta(days=1000))
    fleet.refresh()
    assert fleet.coordinator != before
    assert fleet.names == ["coordinator.example", "127.0.0.1"]
    fleet.close()


def test_a_certificate_is_valid_for_a_board_whose_clock_is_weeks_behind(tmp_path):
    fleet = Fleet.create(tmp_path / "f", ["localhost"])
    assert fleet.authority.certificate.not_valid_before_utc.timestamp() < time.time() - 25 * 86_400
    fleet.close()
