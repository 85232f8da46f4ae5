"""This device in a fleet: join once, then run for good.

`fedloom fleet invite NAME`, on the coordinator, prints the line that joins a device. The device's key
is made on it and never leaves it; its folder (--home) holds identity, settings and unsent results.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from fedloom_edge.errors import DataError, InputError

_TRAINERS = ("auto", "torch", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `join`, `run`, `status`, `predict` and `plan`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="join|run|status|predict|plan")
    join = actions.add_parser(
        "join", help="enrol with an invitation", description="Enrol with an invitation."
    )
    join.add_argument("address", metavar="HOST:PORT", help="where the coordinator enrols devices")
    join.add_argument("invitation", metavar="INVITATION", help="of this device")
    run = actions.add_parser("run", help="stay connected and train", description="Stay connected and train.")
    run.add_argument("--coordinator", metavar="HOST:PORT", help="default: where the device joined")
    run.add_argument(
        "--with-parent", type=int, metavar="PID", help="end when this process, which started it, has ended"
    )
    status = actions.add_parser(
        "status", help="what this device is doing", description="What this device is doing."
    )
    predict = actions.add_parser(
        "predict",
        help="answer with the newest model",
        description="Answer with the newest model that is no worse on this device than the one before.",
    )
    predict.add_argument(
        "source",
        type=Path,
        nargs="?",
        default=Path("-"),
        metavar="INPUT",
        help=".npz (x), .csv of numbers or texts, or an image; default: standard input, line by line",
    )
    plan = actions.add_parser(
        "plan",
        help="what this device would do in a round, and why",
        description="Measure this device and plan a round: batch size, steps, part, compression, energy. "
        "Of several artefacts of a task (--train of fedloom edge export) it names the first in time.",
    )
    _add_plan_arguments(plan)
    for action in (join, run, status, predict, plan):
        action.add_argument(
            "--home", type=Path, metavar="DIR", help="the device's folder; default: ~/.fedloom"
        )
    for action in (join, run, plan):
        action.add_argument("--task", metavar="TASK", help="built-in task, or a file on this device")
        action.add_argument(
            "--data", metavar="DIR", help="folder that the task reads this device's data from"
        )
    for action in (join, run):
        action.add_argument(
            "--trainer", choices=_TRAINERS, help="what trains; auto: onnx, which needs no torch"
        )


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artefacts",
        nargs="*",
        type=Path,
        metavar="ARTEFACT",
        help="default: the one of the device's last run",
    )
    parser.add_argument("--deadline", type=float, default=3600.0, metavar="SECONDS", help="of the round")
    parser.add_argument("--bandwidth", metavar="RATE", help="e.g. 2Mbit/s; default: that of past uploads")
    parser.add_argument("--compress", default="auto", metavar="CODEC", help="as for fedloom serve")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom device`; returns the exit code."""
    from fedloom_client.device.home import default_home

    home = arguments.home or default_home()
    actions = {"join": _join, "run": _run, "status": _status, "predict": _predict, "plan": _plan}
    return actions[arguments.action](home, arguments)


def _join(home: Path, arguments: argparse.Namespace) -> int:
    from fedloom_client.device.home import DeviceSettings
    from fedloom_client.device.joining import Invitation, join
    from fedloom_client.loading import absolute_reference

    invitation = Invitation.parse(arguments.invitation)
    if (home / "identity.pem").exists():
        raise InputError(f"{home} has an identity already; remove its identity.pem to join another fleet")
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"--home {home}: {error.strerror}; choose a folder that can be written") from error
    settings = DeviceSettings.load(home)
    identity, link = join(arguments.address, invitation)
    identity.save(home)
    settings.changed(
        coordinator=link,
        task=absolute_reference(arguments.task) if arguments.task else None,
        data=str(Path(arguments.data).absolute()) if arguments.data else None,
        trainer=arguments.trainer,
    ).save(home)
    sys.stdout.write(f"{identity.name} has joined; start it with: fedloom device run --home {home}\n")
    return 0


def _run(home: Path, arguments: argparse.Namespace) -> int:
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stderr)
    from fedloom_client.device.agent import Agent
    from fedloom_client.device.home import DeviceSettings
    from fedloom_client.device.identity import Identity
    from fedloom_client.device.memory import Memory
    from fedloom_client.device.node_worker import NodeWorker
    from fedloom_client.device.pace import FILE, PaceBook
    from fedloom_client.device.planning import Planner
    from fedloom_client.device.running import Status, run_until_stopped
    from fedloom_client.device.starting import make_outfit
    from fedloom_client.device.supply import TrainerSupply
    from fedloom_edge.energy import PowerSensor

    settings = DeviceSettings.load(home).changed(
        coordinator=arguments.coordinator, task=arguments.task, data=arguments.data, trainer=arguments.trainer
    )
    if not settings.coordinator:
        raise InputError("no coordinator is known; join a fleet first, or give --coordinator HOST:PORT")
    identity = Identity.load(home)
    outfit = make_outfit(settings, home)
    status = Status(home, settings.coordinator)
    book = PaceBook(home / FILE)
    planner = Planner(book, outfit.artefact, settings.max_temperature_c)
    agent = Agent(
        home,
        settings.coordinator,
        identity,
        NodeWorker(
            outfit.node,
            Memory(home / "memory"),
            outfit.measured,
            planner,
            PowerSensor() if outfit.alone else None,
        ),
        outfit.hello,
        settings.max_temperature_c,
        status.note,
        TrainerSupply(home, outfit.equip) if outfit.equip else None,
        book.sent,
    )

    return run_until_stopped(agent, status, arguments.with_parent)


def _status(home: Path, arguments: argparse.Namespace) -> int:
    from fedloom_client.device.home import DeviceSettings
    from fedloom_client.device.identity import Identity
    from fedloom_client.device.served import FILE

    settings, identity = DeviceSettings.load(home), Identity.load(home)
    waiting = len(list((home / "spool").glob("*.result")))
    lines = [
        f"device       {identity.name}",
        f"coordinator  {settings.coordinator}",
        f"task         {settings.task}",
        f"certificate  renewed after {identity.renew_after:%Y-%m-%d}",
        f"unsent       {waiting} result{'' if waiting == 1 else 's'}",
        f"serves       {_serves_line(home / FILE)}",
        f"agent        {_agent_line(home / 'status.json')}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _predict(home: Path, arguments: argparse.Namespace) -> int:
    from fedloom_client.device.predicting import predict_all

    predict_all(home, arguments.source, sys.stdout, sys.stderr)
    return 0


def _plan(home: Path, arguments: argparse.Namespace) -> int:
    from fedloom_client.device.forecast import Wishes, as_json, as_text, forecast, parse_rate
    from fedloom_client.device.home import DeviceSettings
    from fedloom_edge.codecs import parse_codec
    from fedloom_edge.compression import AUTO

    if not arguments.deadline > 0:
        raise InputError(f"--deadline {arguments.deadline:g}: give seconds above 0")
    if arguments.compress not in ("", AUTO):
        parse_codec(arguments.compress)
    settings = DeviceSettings.load(home).changed(task=arguments.task, data=arguments.data)
    wishes = Wishes(
        deadline=arguments.deadline,
        uplink=parse_rate(arguments.bandwidth) if arguments.bandwidth else None,
        compress=arguments.compress,
    )
    made = forecast(home, settings, arguments.artefacts, wishes)
    sys.stdout.write((as_json(made) if arguments.json else as_text(made, wishes.deadline)) + "\n")
    return 0


def _serves_line(path: Path) -> str:
    from fedloom_client.device.served import Served

    try:
        return str(Served.read(path).facts)
    except (FileNotFoundError, DataError):
        return "no model yet"


def _agent_line(path: Path) -> str:
    try:
        facts = json.loads(path.read_text())
        ago = time.time() - float(facts["time"])
        running = Path(f"/proc/{int(facts['pid'])}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return "never ran"
    return f"{'running' if running else 'not running'}; {facts['state']} ({ago:.0f} s ago)"
