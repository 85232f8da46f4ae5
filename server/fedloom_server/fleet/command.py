"""The fleet: who may connect to the coordinator.

`init` once, then `invite` for each device; the printed line is typed on the device. `revoke` takes
effect within seconds, on devices that are connected too.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom_edge.errors import InputError

if TYPE_CHECKING:
    from fedloom_server.fleet.fleet import Fleet

DEFAULT = Path("fleet")
ENROL_PORT = 9093
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `init`, `invite`, `list` and `revoke`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|invite|list|revoke")
    init = actions.add_parser(
        "init", help="make the fleet's authority", description="Make the fleet's authority."
    )
    init.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="host names and addresses of the coordinator; default: this machine's",
    )
    invite = actions.add_parser("invite", help="invite a device", description="Invite a device.")
    invite.add_argument("device", metavar="DEVICE", help="its name, for example pi-kitchen")
    invite.add_argument(
        "--expires", default="24h", metavar="TIME", help="how long the invitation holds: 30m, 24h, 7d"
    )
    invite.add_argument(
        "--address", metavar="HOST:PORT", help="where devices enrol; default: the first name, port 9093"
    )
    actions.add_parser(
        "list", help="show devices and invitations", description="Show devices and invitations."
    )
    revoke = actions.add_parser("revoke", help="shut a device out", description="Shut a device out.")
    revoke.add_argument("device", metavar="DEVICE", help="its name")
    for action in actions.choices.values():
        action.add_argument("--fleet", type=Path, default=DEFAULT, metavar="DIR", help="the fleet's folder")


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom fleet`; returns the exit code."""
    from fedloom_server.fleet.fleet import Fleet, own_names

    if arguments.action == "init":
        names = arguments.names or own_names()
        Fleet.create(arguments.fleet, names).close()
        sys.stdout.write(
            f"{arguments.fleet}: the authority, and a certificate for {', '.join(names)}\n"
            f"keep {arguments.fleet}/ca.key secret; invite a device with: fedloom fleet invite NAME\n"
        )
        return 0
    fleet = Fleet(arguments.fleet)
    try:
        return {"invite": _invite, "list": _list, "revoke": _revoke}[arguments.action](fleet, arguments)
    finally:
        fleet.close()


def _invite(fleet: "Fleet", arguments: argparse.Namespace) -> int:
    import segno

    from fedloom_client.device.joining import Invitation

    address = arguments.address or f"{fleet.names[0]}:{ENROL_PORT}"
    if not re.fullmatch(r".+:\d+", address):
        raise InputError(f"--address {address}: write HOST:PORT")
    token = fleet.registry.invite(arguments.device, _seconds(arguments.expires))
    invitation = Invitation(arguments.device, token, fleet.authority.fingerprint)
    line = f"fedloom device join {address} {invitation}"
    sys.stdout.write(f"{line}\n")
    if sys.stdout.isatty():
        segno.make(line, error="l").terminal(out=sys.stdout, compact=True, border=2)
    sys.stderr.write(f"single use, expires in {arguments.expires}; type the line on {arguments.device}\n")
    return 0


def _list(fleet: "Fleet", arguments: argparse.Namespace) -> int:
    now = time.time()
    rows = [("device", "state", "last seen", "address", "certificate until")]
    for device in fleet.registry.devices():
        state = "revoked" if device.revoked else "expired" if device.expires < now else "valid"
        seen = "never" if device.seen is None else f"{_span(now - device.seen)} ago"
        rows.append(
            (
                device.name,
                state,
                seen,
                device.address or "-",
                f"{time.strftime('%Y-%m-%d', time.gmtime(device.expires))}",
            )
        )
    for name, expires in fleet.registry.invitations():
        rows.append((name, "invited", "-", "-", f"invitation: {_span(expires - now)} left"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        sys.stdout.write(
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, [*widths, 0], strict=True)).rstrip() + "\n"
        )
    return 0


def _revoke(fleet: "Fleet", arguments: argparse.Namespace) -> int:
    fleet.registry.revoke(arguments.device)
    sys.stdout.write(
        f"{arguments.device} is shut out, and its stream ends within 5 s where it is connected\n"
    )
    return 0


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([mhd])", text)
    if not found or not int(found[1]):
        raise InputError(f"--expires {text}: write a number and m, h or d, for example 24h")
    return float(int(found[1]) * _UNITS[found[2]])


def _span(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"
