"""`--fold`: some clients train nothing and are what the run is measured on."""

import json

import numpy as np
import pytest

from fedloom_client.data.shards import ShardRecipe
from fedloom_edge.cli import main
from fedloom_server.rounds.commands import Stopped
from fedloom_simulations.folds import FOLDS, FoldRecipe


def recipes(*values, validation=0.1):
    return (
        ShardRecipe(*values, validation),
        [FoldRecipe(*values, validation, fold=k + 1) for k in range(min(FOLDS, values[3]))],
    )


def key(samples):
    """Samples as a sorted list of what is in them."""
    x, y = samples.take(np.arange(len(samples)))
    return sorted((float(label), row.tobytes()) for row, label in zip(x, y, strict=True))


@pytest.mark.parametrize("clients", [2, 3, 4, 9])
def test_every_client_is_held_out_once_and_trains_in_the_other_folds(clients):
    whole, folds = recipes("tabular", None, "iid", clients, 3)
    everybody = key(whole.open().data.train)
    held_out = [sample for fold in folds for sample in key(fold.open().data.test)]
    assert sorted(held_out) == everybody
    for fold in folds:
        shards = fold.open()
        trained = [
            sample
            for k in range(len(shards))
            for part in (shards[k].train, shards[k].validation)
            for sample in key(part)
        ]
        assert sorted(trained) == key(shards.data.train)
        assert sorted(trained + key(shards.data.test)) == everybody


def test_no_person_of_a_natural_partition_is_on_both_sides():
    for fold in recipes("activity", None, "natural", 0, 0)[1]:
        shards = fold.open()
        people = {int(group) for k in range(len(shards)) for group in shards[k].train.groups}
        tested = {int(group) for group in shards.data.test.groups}
        assert (len(people), len(tested)) == (6, 2)
        assert not people & tested


def test_the_seed_draws_the_folds_and_nothing_else_does():
    first, again, other = (
        key(FoldRecipe("tabular", None, "iid", 8, seed, 0.1, fold=1).open().data.test) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_resumed_run_of_a_fold_holds_the_same_clients_out(tmp_path, monkeypatch):
    options = ["simulate", "tabular", "--rounds", "3", "--fold", "2"]
    assert main([*options, "--out", str(tmp_path / "unbroken")]) == 0
    from fedloom_server.report.progress import RoundTable

    shown = RoundTable.round_done

    def stop(table, entry):
        shown(table, entry)
        if entry.number == 1:
            raise Stopped("enough")

    with monkeypatch.context() as patch:
        patch.setattr(RoundTable, "round_done", stop)
        assert main([*options, "--out", str(tmp_path / "broken")]) == 130
    assert main(["resume", str(tmp_path / "broken")]) == 0
    one, other = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("unbroken", "broken")
    )
    assert one["arrays_sha256"] == other["arrays_sha256"]
    assert one["final"] == other["final"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fold", 5), "the folds are 1 to 4"),
        (("--fold", 0), "the folds are 1 to 4"),
        (("--fold", 3, "--clients", 2), "the folds are 1 to 2"),
        (("--fold", 1, "--clients", 1), "at least 2"),
        (("--fold", 1, "--partition", "virtual:9"), "share samples"),
        (("--fold", 1, "--attack", "labelflip:0.3"), "leave out --fold"),
    ],
)
def test_what_cannot_be_held_out_is_refused(simulate, options, words):
    done = simulate("tabular", *options)
    assert done.code == 2
    assert words in done.err
    assert not done.folder.exists()
