"""A certificate near its end is renewed with a fresh key, by the agent itself."""

from datetime import timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from fedloom_client.device.identity import Identity, new_request

from .conftest import questions, until


def near_its_end(site):
    """An identity of device `a`, in the registry, that has an hour left."""
    key, request = new_request("a")
    certificate = site.fleet.authority.issue_device("a", request, timedelta(hours=1))
    site.fleet.registry._add(certificate, "a")
    return Identity.of(key + certificate.public_bytes(Encoding.PEM), site.fleet.authority.pem)


def test_the_agent_renews_and_goes_on_under_the_same_name(site, tmp_path):
    old = near_its_end(site)
    assert old.wants_renewal
    site.agent("a", identity=old)
    site.grid.gather(1, 20)
    new = Identity.load(tmp_path / "a")
    assert not new.wants_renewal
    assert new.name == "a"
    assert new.key_pem != old.key_pem
    assert (tmp_path / "a" / "identity.pem").stat().st_mode & 0o077 == 0
    site.stop_agent("a")
    until(lambda: "a" not in site.coordinator.connected())
    site.agent("a")  # with the new certificate
    site.grid.gather(1, 20)
    (reply,) = site.grid.send_and_receive(questions(site.grid))
    assert not reply.has_error()


def test_a_revoked_device_cannot_renew_itself_back(site):
    old = near_its_end(site)
    site.fleet.registry.revoke("a")
    site.agent("a", identity=old)
    until(lambda: site.events("device-refused"))
    assert site.events("device-refused")[0]["reason"] == "certificate: a was revoked"
    assert len(site.fleet.registry.devices()) == 1
