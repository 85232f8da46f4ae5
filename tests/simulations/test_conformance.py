"""The conformance suite: divisions that are whole, intervals by hand, runs that are kept and gone on with."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_server.store.rows import Round
from fedloom_simulations.conformance import runner
from fedloom_simulations.conformance.__main__ import main
from fedloom_simulations.conformance.entries import ENTRIES
from fedloom_simulations.conformance.entry import Entry, Run, around, one_area, rounds_ratio
from fedloom_simulations.conformance.splits import (
    closing_dirichlet,
    partly_sorted,
    two_classes_each,
    unequal_slices,
)

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def test_there_are_twelve_entries_of_different_names():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES) == 12
    assert all(entry.interval[0] < entry.interval[1] for entry in ENTRIES)


@given(seed=st.integers(0, 2**32 - 1))
def test_two_classes_each_leaves_out_no_sample_and_gives_no_third_class(seed):
    owners = two_classes_each(LABELS, 20, seed)
    assert set(owners) == set(range(20))
    assert all(len(set(LABELS[owners == client])) == 2 for client in range(20))


def test_pfllibs_division_is_theirs_sample_for_sample():
    # The sizes that numpy's RandomState(1) gives 7,000 samples a class; of class 0 the rest is 4,083.
    labels = np.repeat(np.arange(10), 7000)
    sizes = np.bincount(two_classes_each(labels, 20, seed=1)[labels == 0], minlength=20)
    assert sizes[:4].tolist() == [1236, 410, 1271, 4083]


@given(seed=st.integers(0, 2**32 - 1), alpha=st.sampled_from([0.1, 0.5, 10.0]))
def test_closing_dirichlet_fills_nobody_far_beyond_an_equal_share(seed, alpha):
    owners = closing_dirichlet(LABELS, 10, alpha, seed, least=5)
    sizes = np.bincount(owners, minlength=10)
    assert sizes.sum() == len(LABELS)
    assert sizes.min() >= 5
    # A client below the share may take one more class as a whole.
    assert sizes.max() < len(LABELS) / 10 + np.bincount(LABELS).max()


@given(share=st.floats(0, 1))
def test_partly_sorted_clients_are_of_equal_size(share):
    sizes = np.bincount(partly_sorted(LABELS, 20, share, seed=0), minlength=20)
    assert sizes.sum() == len(LABELS)
    assert sizes.max() - sizes.min() <= 2


def test_without_a_shared_part_a_client_has_one_class_or_two():
    owners = partly_sorted(LABELS, 20, 0.0, seed=0)
    assert max(len(set(LABELS[owners == client])) for client in range(20)) <= 2


def test_slices_double_in_size():
    sizes = np.bincount(unequal_slices(np.arange(630.0), 6))
    assert sizes.tolist() == [10, 20, 40, 80, 160, 320]


def test_intervals_by_hand():
    np.testing.assert_allclose(around(88.0, 0.5), (87.0, 89.0))
    low, high = around(99.0, 0.0, test=9900)  # sqrt(.99 * .01 / 9900) is 0.1 %
    np.testing.assert_allclose((low, high), (98.8, 99.2))
    assert around(99.9, 1.0)[1] == 100.0
    # Hanley and McNeil's own example: area .893, 51 and 58 cases, a standard error of .0324 (table II).
    low, high = one_area(0.893, positive=51, negative=58)
    assert (high - low) / 4 == pytest.approx(0.032, abs=0.001)


def test_a_run_that_never_gets_there_counts_one_round_more_than_it_had():
    def rounds(*values):
        return [Round(k, 0.0, value) for k, value in enumerate(values)]

    curves = {"a": rounds(0.1, 0.5, 0.8), "b": rounds(0.1, 0.2, 0.3, 0.4)}
    assert rounds_ratio("a", "b", 0.8)(curves) == 2 / 4
    assert rounds_ratio("b", "a", 0.9)(curves) == 4 / 3


def test_runs_are_kept_and_one_that_was_broken_off_goes_on(tmp_path):
    run = Run("linear", 3)
    seen = []

    def figure(curves):
        seen.append([entry.loss for entry in curves["run"]])
        return seen[-1][-1]

    entry = Entry(
        name="mine", source="", published="", setup="", unit="", runs={"run": run}, figure=figure,
        interval=(0.0, math.inf),
    )  # fmt: skip
    assert runner.kept(entry, [1], tmp_path) is None
    verdict = runner.judge(entry, [1], tmp_path)
    assert verdict.inside
    (folder,) = (tmp_path / "mine").iterdir()
    before = (folder / "run.db").stat().st_mtime_ns
    assert runner.kept(entry, [1, 2], tmp_path).figures == verdict.figures
    assert (folder / "run.db").stat().st_mtime_ns == before
    assert len(seen[0]) == 4
    assert seen[0][-1] < seen[0][0]


@pytest.mark.slow
def test_the_short_entries_are_inside(tmp_path, capsys):
    assert main(["--short", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert "3 of 3 inside" in capsys.readouterr().out
