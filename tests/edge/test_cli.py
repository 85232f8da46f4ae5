"""The `fedloom` command: overview, exit codes, one-line errors, and where settings come from."""

import argparse
import sys
import types

import pytest

from fedloom_edge import cli
from fedloom_edge.config import add_config_argument
from fedloom_edge.errors import RunError


@pytest.fixture
def probe(monkeypatch):
    """A command `probe` that records the arguments it was run with."""
    module = types.ModuleType("probe_command")
    module.seen = None

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--clients", type=int, default=10)
        parser.add_argument("--early-stop")
        parser.add_argument("--engine", choices=("inline", "ray"), default="inline")
        parser.add_argument("--strategy", default="fedavg")
        add_config_argument(parser, "training", "strategy")

    def run(arguments: argparse.Namespace) -> int:
        module.seen = arguments
        return 0

    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe_command", "server", "a probe"))
    return module


def test_overview_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["simulat"], "did you mean 'simulate'?"),
        (["probe", "--cleints", "3"], "did you mean '--clients'?"),
        (["probe", "--clients", "many"], "invalid int value: 'many'"),
        (["probe", "--engine", "spark"], "invalid choice: 'spark'"),
        (["probe", "stray"], "unexpected argument 'stray'"),
        (["probe", "--config", "no-such.toml"], "no-such.toml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(probe, capsys, argv, expected):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def test_other_failures_exit_with_1_and_ctrl_c_with_130(probe, monkeypatch, capsys):
    def fail(arguments):
        raise RunError("the run is over")

    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "run", fail)
    assert cli.main(["probe"]) == 1
    monkeypatch.setattr(probe, "run", interrupt)
    assert cli.main(["probe"]) == 130


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("no_such_package", "server", ""))
    assert cli.main(["probe"]) == 2
    assert "pip install 'fedloom[server]'" in capsys.readouterr().err


def test_flags_beat_the_environment_which_beats_the_file(probe, tmp_path, monkeypatch):
    file = tmp_path / "run.toml"
    file.write_text('clients = 3\nearly-stop = "loss:5"\n[training]\nlr = 0.3\nepochs = 2\n')
    monkeypatch.setenv("FEDLOOM_EARLY_STOP", "loss:7")
    monkeypatch.setenv("FEDLOOM_SET", "training.lr=0.2")
    cli.main(["probe", "--config", str(file), "--set", "training.epochs=9"])
    assert (probe.seen.clients, probe.seen.early_stop) == (3, "loss:7")
    assert dict(setting.split("=") for setting in probe.seen.settings) == {
        "training.lr": "0.2",
        "training.epochs": "9",
    }
    monkeypatch.setenv("FEDLOOM_CLIENTS", "4")
    cli.main(["probe", "--config", str(file)])
    assert probe.seen.clients == 4
    cli.main(["probe", "--config", str(file), "--clients", "5"])
    assert probe.seen.clients == 5


def test_a_section_of_an_options_name_has_the_option_as_its_name(probe, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[strategy]\nname = "fedadam"\neta = 0.03\n')
    cli.main(["probe", "--config", str(file)])
    assert (probe.seen.strategy, probe.seen.settings) == ("fedadam", ["strategy.eta=0.03"])
    cli.main(["probe", "--config", str(file), "--strategy", "fedavg"])
    assert probe.seen.strategy == "fedavg"


def test_a_file_with_an_unknown_key_or_choice_is_refused(probe, tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text("cleints = 3\n")
    assert cli.main(["probe", "--config", str(file)]) == 2
    assert "did you mean 'clients'?" in capsys.readouterr().err
    file.write_text('engine = "spark"\n')
    assert cli.main(["probe", "--config", str(file)]) == 2
    assert "spark" in capsys.readouterr().err
