"""`--show-partition`: the label distribution per client as a picture and as text."""

import numpy as np
import pytest

from fedloom_edge.errors import InputError
from fedloom_server.report.labels import draw_labels
from fedloom_server.report.partition import draw_partition, partition_text
from fedloom_server.report.style import page

COUNTS = np.array([[8, 0, 0], [1, 6, 1], [0, 0, 16]])
SIZES = COUNTS.sum(axis=1).tolist()


def test_text_shows_shares_as_heights_and_missing_classes_as_dots():
    title, summary, _, head, *rows = partition_text(
        COUNTS, SIZES, ("a", "b", "c"), "digits: iid"
    ).splitlines()
    assert title == "digits: iid"
    assert (
        summary == "32 examples over 3 clients: 8 to 16 (median 8) a client; 1 to 3 (median 1) of 3 classes"
    )
    assert head.split() == ["client", "examples", "a", "b", "c"]
    assert [row.split() for row in rows] == [
        ["0", "8", "█", "·", "·"],
        ["1", "8", "▂", "▇", "▂"],
        ["2", "16", "·", "·", "█"],
    ]


def test_text_explains_long_class_names_below():
    text = partition_text(COUNTS, SIZES, ("trouser", "boot"), "fashion")
    assert text.splitlines()[-1] == "classes: 0 trouser, 1 boot, 2 2"


def test_text_without_classes_shows_sizes_as_bars():
    rows = partition_text(None, [100, 50, 1], (), "stocks").splitlines()[4:]
    assert [row.split()[1] for row in rows] == ["100", "50", "1"]
    assert [row.count("█") for row in rows] == [40, 20, 0]
    assert rows[2].endswith("▍")  # 3 eighths of a character for one in a hundred


def test_text_lists_forty_of_many_clients():
    text = partition_text(np.ones((1000, 2), int), [2] * 1000, ("n", "y"), "tabular")
    assert text.splitlines()[-1] == "… and 960 more clients"
    assert len(text.splitlines()) == 3 + 1 + 40 + 1


def drawn(counts, sizes, names):
    figure = page()
    draw_labels(figure, figure.add_gridspec(1, 1)[0], counts, sizes, names)
    return figure


def test_the_heat_map_shows_each_clients_shares_and_numbers():
    bars, heat_map, _ = drawn(COUNTS, SIZES, ("a", "b", "c")).axes
    np.testing.assert_allclose(heat_map.images[0].get_array(), (COUNTS / np.array(SIZES)[:, None]).T)
    assert [patch.get_height() for patch in bars.patches] == SIZES
    assert [label.get_text() for label in heat_map.get_yticklabels()] == ["a", "b", "c"]
    assert sorted(text.get_text() for text in heat_map.texts) == sorted(["8", "1", "6", "1", "16", *"····"])


def test_many_clients_stand_in_the_order_of_their_largest_class():
    counts = np.eye(3, dtype=int)[np.random.default_rng(0).integers(0, 3, 60)] * 7
    _, heat_map, _ = drawn(counts, counts.sum(axis=1).tolist(), ()).axes
    assert (np.diff(heat_map.images[0].get_array().argmax(axis=0)) >= 0).all()
    assert heat_map.get_xlabel() == "clients, ordered by their largest class"


def test_an_empty_client_is_drawn(tmp_path):
    draw_partition(np.array([[3, 1], [0, 0]]), [4, 0], (), "digits: one client is empty", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "start"), [("p.pdf", b"%PDF"), ("p.svg", b"<?xml")])
def test_the_ending_decides_the_format(tmp_path, name, start):
    draw_partition(None, [4, 5], (), "stocks", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg"):
        draw_partition(None, [4, 5], (), "stocks", tmp_path / "p.doc")
    assert not list(tmp_path.iterdir())
