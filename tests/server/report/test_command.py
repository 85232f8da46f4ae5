"""`fedloom report`: tables and pictures from run folders."""

import subprocess
import sys

import numpy as np
import pytest

from fedloom_edge.cli import main
from fedloom_server.guard.quarantine import Refused, keep
from fedloom_server.report.run import run_figure
from fedloom_server.report.table import text_table
from fedloom_server.store.run_store import RunStore


def test_one_run_shows_its_rounds_and_draws_its_report(make_run, tmp_path, capsys):
    make_run(tmp_path / "one", rounds=2)
    assert main(["report", str(tmp_path / "one")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:7] == ["one", "digits", "inline", "fedavg", "dirichlet:0.3", "1", "10"]
    head = out[3].split()
    assert head[:4] == ["round", "loss", "accuracy", "clients"]
    assert [line.split()[0] for line in out[4:7]] == ["0", "1", "2"]
    assert out[6].split()[1:5] == ["2.0290", "0.2710", "0.2710", "0.1355"]
    assert out[-1] == str(tmp_path / "one" / "report.png")
    assert (tmp_path / "one" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_pictures_of_an_explanation_are_named_and_kept_on_the_report(make_run, tmp_path, capsys):
    make_run(tmp_path / "one")
    with RunStore.open(tmp_path / "one") as store:
        assert not any("explain.png" in text.get_text() for text in run_figure(store).texts)
        for name in ("explain.png", "contribution.png"):
            (tmp_path / "one" / name).touch()
        drawn = [text.get_text() for text in run_figure(store).texts]
    assert "what the model looks at: explain.png  ·  what each client gave: contribution.png" in drawn
    assert main(["report", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        str(tmp_path / "one" / "report.png"),
        f"{tmp_path / 'one' / 'explain.png'}: what the model looks at",
        f"{tmp_path / 'one' / 'contribution.png'}: what each client gave",
    ]


def test_several_runs_show_a_row_each_and_one_picture(make_run, tmp_path, capsys):
    make_run(tmp_path / "a", rounds=2)
    make_run(tmp_path / "b", rounds=4, strategy="krum")
    picture = tmp_path / "both.svg"
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(picture)]) == 0
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[-6:] == ["up", "MB", "down", "MB", "seconds", "arrays"]
    assert first.split()[3:8] == ["fedavg", "dirichlet:0.3", "1", "10", "2"]
    assert first.split()[-4:] == ["20.00", "40.00", "12.5", "3fa94b12cc8d"]
    assert second.split()[3] == "krum"
    assert picture.read_bytes().startswith(b"<?xml")


def test_runs_of_different_metrics_still_have_their_table(make_run, tmp_path, capsys):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", metric="mae")
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.png")]) == 2
    captured = capsys.readouterr()
    assert "0.4686 accuracy" in captured.out and "0.4686 mae" in captured.out
    assert "one metric" in captured.err


def test_a_run_without_a_round_is_no_error(tmp_path, capsys):
    facts = {"task": "digits", "metric": "accuracy", "strategy": "fedavg"}
    RunStore.create(tmp_path / "new", facts).close()
    assert main(["report", str(tmp_path / "new")]) == 0
    assert "no round is finished yet" in capsys.readouterr().out
    assert not (tmp_path / "new" / "report.png").exists()


def test_refused_updates_are_listed_with_their_rule_and_file(tmp_path, capsys):
    arrays = {"w": np.full(3, np.nan, np.float32)}
    with RunStore.create(tmp_path / "run", {}) as store:
        keep(
            store,
            4,
            1,
            [Refused(2, "finite: array 'w' has 3 values that are not finite", None, 9, 12, arrays)],
        )
        digest = store.put_arrays(arrays)
    RunStore.create(tmp_path / "clean", {}).close()
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "clean"), "--quarantine"]) == 0
    _, head, row, clean = capsys.readouterr().out.splitlines()
    assert head.split() == ["round", "client", "norm", "MB", "reason", "arrays"]
    assert row.split()[:2] == ["4", "2"] and "finite: array 'w'" in row
    assert row.endswith(f"arrays/{digest}.safetensors")
    assert clean.endswith("no refused updates are kept")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nowhere"], "nowhere holds no run"),
        (["run", "--out", "run/picture.doc"], ".png, .pdf, .svg"),
        (["run", "--out", "nowhere/picture.png"], "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line(make_run, tmp_path, monkeypatch, capsys, arguments, fault):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", rounds=1)
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert fault in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.rglob("picture*"))


def test_tables_line_up_numbers_at_the_right():
    assert (
        text_table(("name", "loss"), [("a", "10.5"), ("longer", "–")])
        == "name    loss\na       10.5\nlonger     –"
    )


def test_its_help_imports_nothing_heavy():
    code = (
        "import argparse, sys\n"
        "from fedloom_server.report.command import add_arguments\n"
        "add_arguments(argparse.ArgumentParser())\n"
        "print({'matplotlib', 'numpy', 'torch', 'flwr'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
