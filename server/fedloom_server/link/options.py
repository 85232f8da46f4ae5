"""What every command that holds devices is told: where they connect, and how long they are waited for."""

import argparse
from pathlib import Path

from fedloom_edge.errors import InputError
from fedloom_server.link.quorum import Quorum

SECTIONS = ("training", "strategy", "guard", "checkpoints", "secure")
"""Of the settings that `fedloom serve` takes by `--set` and `--config`."""


def add_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--listen`, `--enrol`, `--fleet`, `--min-devices`, `--quorum`, `--grace` and `--deadline`."""
    parser.add_argument("--listen", default="0.0.0.0:9092", metavar="HOST:PORT", help="where devices connect")
    parser.add_argument("--enrol", metavar="HOST:PORT", help="where devices enrol; default: the port after")
    parser.add_argument("--fleet", type=Path, default=Path("fleet"), metavar="DIR", help="the fleet's folder")
    parser.add_argument("--min-devices", type=int, default=2, metavar="K", help="how many to wait for")
    parser.add_argument(
        "--quorum", type=float, default=0.8, metavar="SHARE", help="of the devices that must answer a round"
    )
    parser.add_argument(
        "--grace", type=float, default=60.0, metavar="SECONDS", help="how long a device may be out of touch"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="the longest a phase of a round takes",
    )


def check_link(options: argparse.Namespace) -> Quorum:
    """When a phase is over, by options that have been checked.

    Raises:
        InputError: one is out of bounds or malformed.
    """
    if options.min_devices < 1:
        raise InputError(f"--min-devices {options.min_devices}: give at least 1")
    if not 0 < options.quorum <= 1:
        raise InputError(f"--quorum {options.quorum:g}: give a share above 0 and at most 1")
    if min(options.grace, options.deadline) <= 0:
        raise InputError("--grace and --deadline: give seconds above 0")
    for name in ("listen", "enrol"):
        value = getattr(options, name)
        if value is not None and not value.rpartition(":")[2].isdecimal():
            raise InputError(f"--{name} {value}: write HOST:PORT, for example 0.0.0.0:9092")
    return Quorum(share=options.quorum, grace=options.grace, deadline=options.deadline)


def enrol_address(listen: str, given: str | None) -> str:
    """Where devices enrol: `given`, or the port after the link's."""
    host, _, port = listen.rpartition(":")
    return given or f"{host}:{int(port) + 1 if int(port) else 0}"
