"""report.png: one run on one page, whatever the run is like."""

import numpy as np
import pytest

from fedloom_server.report.run import draw_run, run_figure

PANELS = [
    "Accuracy, and its spread over clients",
    "Loss",
    "Examples per client, and their labels",
    "Traffic, MB a round",
    "Time, seconds a round",
    "Clients a round",
]


def panel(figure, title):
    """The axes that carry `title`."""
    return next(axes for axes in figure.axes if title in [text.get_text() for text in axes.texts])


def lines_of(axes):
    """{label: y values} of the lines that stand in the legend."""
    return {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}


def everything_written(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [
        text.get_text() for text in figure.texts
    ]


def test_a_run_is_drawn_in_six_panels_with_named_axes(make_run, tmp_path):
    figure = run_figure(make_run(tmp_path / "run"))
    for title in PANELS:
        panel(figure, title)
    metric, loss = panel(figure, PANELS[0]), panel(figure, "Loss")
    assert (metric.get_xlabel(), metric.get_ylabel()) == ("round", "accuracy")
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("round", "mean loss")


def test_the_lines_are_the_runs_figures(make_run, tmp_path):
    store = make_run(tmp_path / "run")
    figure = run_figure(store)
    rounds = store.rounds()
    metric, loss = lines_of(panel(figure, PANELS[0])), lines_of(panel(figure, "Loss"))
    np.testing.assert_array_equal(metric["test set"], [entry.metric for entry in rounds])
    np.testing.assert_array_equal(metric["worst 5 %"][1:], [entry.worst_metric for entry in rounds[1:]])
    assert set(loss) == {"test set", "clients, training", "clients, validation"}
    np.testing.assert_array_equal(loss["clients, training"][1:], [entry.train_loss for entry in rounds[1:]])


def test_the_header_tells_what_was_run_and_where_it_ended(make_run, tmp_path):
    written = everything_written(run_figure(make_run(tmp_path / "run", status="interrupted")))
    assert "digits" in written
    assert any("fedavg  ·  dirichlet:0.3  ·  10 clients  ·  5 rounds  ·  seed 1" in text for text in written)
    assert any(text.endswith("interrupted") for text in written)
    assert f"{1 - 0.9**6:.4f}" in written  # the last round's accuracy
    assert "150 MB" in written  # 5 rounds of 10 + 20 MB
    assert any("majority class 0.2500" in text for text in written)


def test_failures_are_counted(make_run, tmp_path):
    axes = panel(run_figure(make_run(tmp_path / "run")), "Clients a round")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ok", "5 failed"]


def test_a_missing_measurement_breaks_the_line_and_its_lonely_neighbour_is_a_dot(make_run, tmp_path):
    axes = panel(run_figure(make_run(tmp_path / "run", rounds=40, missing=(3, 5))), PANELS[0])
    test = next(line for line in axes.lines if line.get_label() == "test set")
    assert np.flatnonzero(np.isnan(test.get_ydata())).tolist() == [3, 5]
    assert test.get_markevery() == [4]


def test_without_any_measurement_the_panels_say_so(make_run, tmp_path):
    written = everything_written(run_figure(make_run(tmp_path / "run", rounds=1, missing=(0, 1))))
    assert {"no accuracy was measured", "no loss was measured"} <= set(written)


def test_a_regression_shows_sizes_instead_of_labels(make_run, tmp_path):
    figure = run_figure(make_run(tmp_path / "run", classes=0, metric="mae"))
    axes = panel(figure, "Examples per client")
    assert axes.get_ylabel() == "training examples"
    assert len(axes.patches) == 10
    assert panel(figure, "Mean absolute error, and its spread over clients").get_ylabel() == "mae"


@pytest.mark.parametrize(
    "content",
    [
        {"clients": 2, "rounds": 1, "classes": 2},
        {"clients": 1, "rounds": 0, "classes": 1},
        {"clients": 300, "rounds": 3, "classes": 100},
        {"clients": 3, "rounds": 120, "missing": tuple(range(0, 120, 3)), "task": "a long name " * 9},
        {"class_names": []},
    ],
    ids=["small", "only round 0", "many clients and classes", "long with gaps", "nameless classes"],
)
def test_runs_of_all_sizes_are_drawn_inside_the_page(make_run, tmp_path, content):
    store = make_run(tmp_path / "run", **content)
    path = tmp_path / "report.png"
    draw_run(store, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = run_figure(store)
    figure.draw_without_rendering()
    for part in (*figure.axes, *figure.texts):
        box = part.get_tightbbox()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, part
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, part


def test_drawing_does_not_touch_matplotlibs_global_state(make_run, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_run(make_run(tmp_path / "run", rounds=1), tmp_path / "report.png")
    assert dict(matplotlib.rcParams) == before
