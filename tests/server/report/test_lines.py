"""Lines over rounds: labels that never cover each other, axes that show what there is."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_server.report import lines
from fedloom_server.report.style import page


@given(st.lists(st.floats(0, 200), max_size=12).map(sorted))
def test_end_labels_keep_their_order_and_distance_and_stay_below_the_top(places):
    moved = lines.spread(places, 0, 200)
    assert len(moved) == len(places)
    assert all(b - a >= lines._LABEL_POINTS - 1e-9 for a, b in pairwise(moved))
    assert all(place <= 200 for place in moved)


def test_end_labels_far_apart_stay_where_they_are():
    assert lines.spread([10, 50, 90], 0, 100) == [10, 50, 90]


@pytest.mark.parametrize(
    ("values", "bounded", "scale", "limits"),
    [
        ([2.0, 1.0], False, "linear", (0.94, 2.06)),
        ([100.0, 0.1], False, "log", (0.1 / 1.3, 130)),
        ([0.0, 1.0], True, "linear", (-0.01, 1.01)),
        ([0.5], True, "linear", (0.45, 0.55)),
        ([-1.0, 100.0], False, "linear", (-7.06, 106.06)),
    ],
)
def test_the_value_axis_fits_what_is_drawn(values, bounded, scale, limits):
    axes = page().add_subplot()
    lines.value_axis(axes, [np.array([*values, np.nan])], bounded=bounded)
    assert axes.get_yscale() == scale
    assert axes.get_ylim() == pytest.approx(limits)


def test_references_are_named_where_the_line_is_further_away_and_never_over_each_other():
    axes = page().add_subplot()
    rising = np.array([0.1, 0.9])
    lines.value_axis(axes, [rising], bounded=True)
    lines.references(axes, {"first": 0.1, "near the first": 0.101, "last": 0.9}, rising)
    assert {text.get_text(): text.get_ha() for text in axes.texts} == {
        "first 0.1000": "right",
        "near the first 0.1010": "right",
        "last 0.9000": "left",
    }
    first, near = (text.get_window_extent() for text in axes.texts[:2])
    assert near.y0 > first.y0 + 0.8 * first.height
