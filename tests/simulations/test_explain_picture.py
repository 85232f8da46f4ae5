"""Pictures of explanations: everything is on the page, nothing over another, and says what it is."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fedloom_simulations.explain import picture

DRAW = np.random.default_rng(0)
WORDS = "wonderful " * 120
KINDS = {
    "table": (DRAW.normal(size=(6, 30)), (30,)),
    "series": (DRAW.normal(size=(6, 2, 5)), (2, 5)),
    "photo": (DRAW.integers(0, 256, (6, 3, 8, 8)).astype(np.uint8), (3, 8, 8)),
    "grey photo": (DRAW.random((6, 1, 8, 6)).astype(np.float32), (1, 8, 6)),
    "texts": (np.array([WORDS, "no", WORDS[:200], WORDS, "a" * 200, WORDS]), (120,)),
}


@pytest.fixture
def drawn(monkeypatch):
    """Draw six samples of a kind; gives the figure instead of a file."""

    def draw(kind, method="occlusion", warning=""):
        figures = []
        monkeypatch.setattr(picture, "save", lambda figure, path: figures.append(figure))
        raw, shape = KINDS[kind]
        facts = {"run": "r", "method": method, "on": "test", "warning": warning}
        values = np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32)
        picture.draw_samples(Path("x.png"), facts, [{"target": 1, "predicted": 1}] * 6, raw, values)
        return figures[0]

    return draw


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_on_the_page_and_none_is_over_another(drawn, kind):
    figure = drawn(kind)
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    page = figure.bbox
    for box in boxes:
        assert box.x0 >= page.x0
        assert box.y0 >= page.y0
        assert box.x1 <= page.x1
        assert box.y1 <= page.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_a_photo_is_drawn_in_its_colours(drawn):
    seen = drawn("photo").axes[0].images[0].get_array()
    np.testing.assert_allclose(seen, np.moveaxis(KINDS["photo"][0][0], 0, -1) / 255)
    bright = drawn("grey photo").axes[0].images[0]
    rgb = bright.cmap(bright.norm(bright.get_array()))[..., 0]
    light = KINDS["grey photo"][0][0, 0]
    assert rgb.ravel().argmax() == light.argmax()


def test_magnitudes_are_not_said_to_speak_for_or_against(drawn):
    said = [text.get_text() for kind in KINDS for text in drawn(kind, "saliency").texts]
    assert not any("speaks for" in text for text in said)
    assert sum("moves the prediction, up or down" in text for text in said) == len(KINDS)
    assert any("speaks for" in text.get_text() for text in drawn("table").texts)


def test_the_time_axis_has_whole_steps(drawn):
    for axes in drawn("series").axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_what_must_be_known_of_the_run_is_on_the_picture(drawn):
    assert any("untrained" in text.get_text() for text in drawn("table", warning="untrained").texts)
