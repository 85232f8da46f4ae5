"""`fedloom edge bench ARTEFACT`: figures of both models and of a process that trains, as a table and JSON."""

import json

from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.cli import main


def test_figures_of_an_artefact_are_printed_and_written(digits, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["edge", "bench", str(digits), "--json", str(file)]) == 0
    out = capsys.readouterr().out
    figures = json.loads(file.read_text())[str(digits)]
    assert set(figures["latency"]) == {INFER, INT8}
    for times in figures["latency"].values():
        assert 0 < times["p50_ms"] <= times["p95_ms"]
    training = figures["training"]
    assert training["step_ms"] > 0
    assert 20 < training["peak_mb"] < 150
    assert training["start_to_first_step_s"] > 0
    assert all(word in out for word in (INFER, INT8, "train.onnx", "peak", "installed", "energy"))


def test_what_is_neither_an_artefact_nor_a_case_is_refused(capsys):
    assert main(["edge", "bench", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
