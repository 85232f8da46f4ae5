"""The `fedloom` command: finds the subcommand, reads its settings, and turns errors into exit codes.

A subcommand is a module with `add_arguments(parser)` and `run(arguments) -> exit code`. It is named
here as text and imported only when it is called, so `fedloom --help` costs no heavy import and a
device without an extra still has every command that it can run.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NoReturn

from fedloom_edge.config import apply_settings
from fedloom_edge.errors import FedloomError, InputError, is_interruption, unknown

INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that has it, the extra that it needs, and one line of help."""

    module: str
    extra: str
    summary: str


COMMANDS = {
    "simulate": Command("fedloom_simulations.simulate", "simulation", "run a federation on this machine"),
    "resume": Command("fedloom_server.recovery.resume", "server", "go on with a run after a crash or a stop"),
    "serve": Command(
        "fedloom_server.link.serve", "simulation", "coordinate devices that train over the network"
    ),
    "gateway": Command(
        "fedloom_server.gateway.command",
        "server",
        "a device to a coordinator, a coordinator to its site",
    ),
    "device": Command("fedloom_client.device.command", "", "this machine as a device: join, run, predict"),
    "fleet": Command("fedloom_server.fleet.command", "server", "who may connect: init, invite, list, revoke"),
    "tune": Command("fedloom_simulations.tune.command", "tune", "search for better settings of a task"),
    "explain": Command(
        "fedloom_simulations.explain.command", "explain", "what a model looks at, what each client gave it"
    ),
    "report": Command("fedloom_server.report.command", "server", "show a run, or compare several"),
    "dashboard": Command("fedloom_server.dashboard.command", "server", "watch runs in a browser, live"),
    "edge export": Command(
        "fedloom_server.edge_export", "simulation", "make an artefact for devices of a run or task"
    ),
    "edge check": Command("fedloom_edge.check_command", "", "check an artefact before it is loaded"),
    "edge finetune": Command(
        "fedloom_client.finetune.command", "", "train an artefact on this device's data"
    ),
    "edge quantize": Command("fedloom_client.quantize", "train", "calibrate an artefact's int8 model anew"),
    "edge explain": Command(
        "fedloom_client.explain", "", "what an artefact's model looks at in this device's data"
    ),
    "edge bench": Command(
        "fedloom_edge.bench_command", "", "time and memory of an artefact, or of step graphs"
    ),
    "doctor": Command("fedloom_client.doctor", "", "check this machine: versions, extras, data, ports"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fedloom` with `argv` (default: the process's) and return its exit code."""
    if argv is None:  # this process is the command
        # A closed pipe (`fedloom report | head`) ends it quietly, as users of a shell expect.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except FedloomError as error:
        sys.stderr.write(f"fedloom: {_one_line(error)}\n")
        return error.exit_code
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interruption(error):
            raise
        sys.stderr.write("fedloom: interrupted\n")
        return INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if argv[0] == "--version":
        sys.stdout.write(f"fedloom {version('fedloom')}\n")
        return 0
    name, *rest = argv
    if any(
        command.startswith(f"{name} ") for command in COMMANDS
    ):  # a family: its next word belongs to the name
        if not rest or rest[0] in ("-h", "--help"):
            sys.stdout.write(_overview(f"{name} "))
            return 0
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    command = COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fedloom"):
            raise
        package = f"fedloom[{command.extra}]" if command.extra else "fedloom"
        raise InputError(f"fedloom {name} needs the package {error.name}: pip install '{package}'") from error
    parser = Parser(prog=f"fedloom {name}", description=module.__doc__, formatter_class=_Formatter)
    module.add_arguments(parser)
    apply_settings(parser, rest)
    return int(module.run(parser.parse_args(rest)))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest valid option."""

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing usage and exiting."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse `args`; an unknown option is refused with the nearest valid one."""
        arguments, extra = self.parse_known_args(args, namespace)
        for word in extra:
            if word.startswith("--"):
                raise unknown(
                    "option", word.split("=")[0], (o for o in self._option_string_actions if o[:2] == "--")
                )
            self.error(f"unexpected argument {word!r}")
        return arguments


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Defaults in the help where there are any; paragraphs of the description stay as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default in ([], argparse.SUPPRESS) or action.nargs == 0
        return action.help if silent else f"{action.help} (default: %(default)s)"


def _overview(family: str = "") -> str:
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(family)}
    width = max(map(len, shown))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in shown.items()]
    return "\n".join(
        [
            f"usage: fedloom {family}COMMAND [options]",
            "",
            "Federated and edge training: train where the data lives.",
            "",
            *lines,
            "",
            f"fedloom {family}COMMAND --help tells the options of a command.",
            "",
        ]
    )


def _one_line(error: FedloomError) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
