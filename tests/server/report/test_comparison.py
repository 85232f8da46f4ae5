"""A picture of several runs."""

import numpy as np
import pytest

from fedloom_edge.errors import InputError
from fedloom_server.report.comparison import comparison_figure, draw_comparison, run_labels


@pytest.fixture
def runs(make_run, tmp_path):
    return [
        make_run(tmp_path / "a", rounds=5),
        make_run(tmp_path / "b", rounds=8, strategy="fedadam"),
        make_run(tmp_path / "c", rounds=3, strategy="fedadam", seed=2, missing=(3,)),
    ]


def test_runs_are_drawn_over_rounds_over_traffic_and_at_their_ends(runs):
    figure = comparison_figure(runs)
    accuracy, loss, traffic, ends = figure.axes
    assert [len(axes.lines) for axes in (accuracy, loss, traffic)] == [3, 3, 3]
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), [r.metric for r in runs[1].rounds()])
    np.testing.assert_allclose(traffic.lines[0].get_xdata(), [0, 30, 60, 90, 120, 150])
    assert traffic.get_xlabel() == "MB up and down since the start"
    assert [text.get_text() for text in ends.texts if text.get_text()[0] == "0"] == [
        "0.4686",
        "0.6126",
        "0.2710",
    ]


def test_the_legend_names_what_differs_and_the_header_what_is_shared(runs):
    figure = comparison_figure(runs)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "fedavg · seed 1 · 5 rounds",
        "fedadam · seed 1 · 8 rounds",
        "fedadam · seed 2 · 3 rounds",
    ]
    assert "digits  ·  dirichlet:0.3  ·  10 clients  ·  inline engine" in [
        text.get_text() for text in figure.texts
    ]


def test_equal_runs_are_told_apart_by_their_folders():
    facts = {"task": "digits", "strategy": "fedavg"}
    assert run_labels([facts, facts], ["first", "second"]) == ["first", "second"]
    other = {**facts, "strategy": "krum"}
    assert run_labels([facts, facts, other], ["a", "b", "c"]) == ["fedavg · a", "fedavg · b", "krum"]


def test_many_runs_still_differ_in_colour_or_dash(make_run, tmp_path):
    figure = comparison_figure([make_run(tmp_path / f"{i}", rounds=1, seed=i) for i in range(12)])
    lines = figure.axes[0].lines
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == 12


def test_runs_of_different_metrics_are_refused(make_run, tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", metric="mae")]
    with pytest.raises(InputError, match="accuracy and mae"):
        draw_comparison(runs, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
