"""What a user can get wrong: one line with what, where and the mend; exit code 2; nothing written."""

import pytest

from fedloom_edge.cli import main


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["digts"], "did you mean 'digits'"),
        (["digits", "--strategy", "fedavgg"], "did you mean 'fedavg'"),
        (["digits", "--strategy", "fedadam", "--set", "strategy.etaa=1"], "did you mean 'eta'"),
        (["digits", "--partition", "dirichelt:0.3"], "did you mean 'dirichlet'"),
        (["digits", "--partition", "dirichlet:none"], "dirichlet"),
        (["digits", "--partition", "natural"], "natural"),
        (["digits", "--clients", "2000"], "2000"),
        (["digits", "--clients", "-1"], "-1"),
        (["digits", "--rounds", "0"], "--rounds 0"),
        (["digits", "--set", "training.lr=fast"], "expected a number"),
        (["digits", "--early-stop", "accuracy"], "METRIC:ROUNDS"),
        (["digits", "--rouns", "3"], "did you mean '--rounds'"),
        (["no/such/task.py"], "no/such/task.py"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(simulate, argv, expected):
    done = simulate(*argv)
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert not done.folder.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"body": "1 / 0"}, "my_task.py:5"),
        ({"body": "def broken(:"}, "my_task.py:5"),
        ({"y": "rng.integers(0, 9, 120)"}, "labels"),
        ({"y": "rng.integers(-1, 3, 120)"}, "-1"),
        ({"model": "lambda: nn.Linear(5, 3)"}, "4"),
        ({"model": "lambda: nn.Linear(4, 3)[0]"}, "my_task.py"),
        ({"x": "np.full((120, 4), np.nan, np.float32)"}, "NaN"),
        ({"x": "np.zeros((119, 4), np.float32)"}, "29"),
        ({"data": "lambda folder: 1 / 0"}, "my_task.py"),
        ({"extra": "loss='cross_entrop'"}, "cross_entropy"),
        ({"extra": "loss='mse'"}, "mse"),
    ],
)
def test_a_wrong_task_is_refused_with_the_place(simulate, task_file, changes, expected):
    done = simulate(task_file(changes.pop("body", ""), **changes))
    assert done.code == 2, done.out
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert not done.folder.exists()


def test_a_folder_that_holds_a_run_is_left_as_it_is(simulate, task_file, capsys):
    first = simulate(task_file(), "--rounds", 1)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    assert main(["simulate", str(task_file()), "--out", str(first.folder)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
