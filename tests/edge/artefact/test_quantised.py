"""Quantisation-aware training: the int8 model that is served computes as the graph that was trained."""

import numpy as np
import pytest
from onnx import numpy_helper

from fedloom_client.finetune.graphs import ArtefactGraphs
from fedloom_edge.artefact.check import check, initial_arrays
from fedloom_edge.artefact.graph import inspect
from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.artefact.patch import stored_array
from fedloom_edge.artefact.rounding import LARGEST, round_into, weight_scale
from fedloom_edge.artefact.serving import predict
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.bias_correction import channel_means, correct_biases
from fedloom_edge.cli import main
from fedloom_edge.errors import InputError
from fedloom_edge.quantise import fold_and_quantise, quantise


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(artefact, artefact after training, inputs, targets); of fresh digits, trained with rounding."""
    from fedloom_client.loading import load_data, load_task

    folder = tmp_path_factory.mktemp("int8")
    x, y = load_data(load_task("digits"), None).train.take(np.arange(1200))
    np.savez(folder / "data.npz", x=x, y=y)
    start, out = folder / "start", folder / "out"
    assert main(["edge", "export", "digits", "--train", "int8", "--out", str(start)]) == 0
    options = ["--data", str(folder / "data.npz"), "--epochs", "6", "--out", str(out)]
    assert main(["edge", "finetune", str(start), *options]) == 0
    return Artefact(start), Artefact(out), x, y


def test_it_learns_and_serves_int8(tuned):
    _, after, x, y = tuned
    check(after)
    assert (predict(after.read(INT8), x).argmax(1) == y).mean() > 0.9


@pytest.mark.parametrize("which", [0, 1], ids=["before", "after"])
def test_the_int8_model_computes_as_the_training_graph(tuned, which):
    artefact, x = tuned[which], tuned[2]
    trained = ArtefactGraphs(artefact).evaluator(x)(initial_arrays(artefact), x)
    served = predict(artefact.read(INT8), x)
    # A sum on the border of a step may fall to either side; that moves an output by a few steps at most.
    scale = np.abs(trained).max()
    assert np.abs(served - trained).max() < 0.05 * scale
    assert np.abs(served - trained).mean() < 0.002 * scale
    assert (served.argmax(1) == trained.argmax(1)).mean() > 0.995


def test_the_float_model_has_the_trained_arrays_too(tuned):
    _, after, x, y = tuned
    assert (predict(after.read(INFER), x).argmax(1) == y).mean() > 0.9


def test_integers_are_the_arrays_in_units_of_their_scale(tuned):
    _, after, *_ = tuned
    arrays, places = initial_arrays(after), after.manifest.rounded
    content = after.read(INT8)
    found = inspect(content, INT8)
    assert set(places) == set(arrays)
    for name, place in places.items():
        integers, scale = (stored_array(content, found, n) for n in (place.integers, place.scale))
        shape = [-1 if a == place.axis else 1 for a in range(integers.ndim)]
        error = np.abs(integers * scale.reshape(shape) - arrays[name])
        assert (error <= 0.5001 * scale.reshape(shape) + 1e-7).all()
        if not place.weight:
            largest = np.abs(integers.astype(int)).max(
                axis=tuple(a for a in range(integers.ndim) if a != place.axis)
            )
            assert (largest == LARGEST).all()


def test_rounding_again_changes_nothing(tuned):
    _, after, *_ = tuned
    content = after.read(INT8)
    again = round_into(content, initial_arrays(after), after.manifest.rounded)
    one, two = inspect(content, INT8), inspect(again, INT8)
    for place in after.manifest.rounded.values():
        a, b = stored_array(content, one, place.integers), stored_array(again, two, place.integers)
        assert np.abs(a.astype(np.int64) - b).max() <= 1


def test_a_channel_of_zeros_has_a_scale(tuned):
    scale = weight_scale(np.zeros((3, 2, 1, 1), np.float32), 0)
    assert scale.shape == (3,)
    assert (scale > 0).all()


def test_an_artefact_is_calibrated_anew_on_other_data(tuned, tmp_path, capsys):
    start, _, x, y = tuned
    np.savez(tmp_path / "d.npz", x=x, y=y)
    export = tmp_path / "head"
    assert main(["edge", "export", "digits", "--out", str(export)]) == 0
    out = tmp_path / "again"
    options = ["--data", str(tmp_path / "d.npz"), "--out", str(out)]
    assert main(["edge", "quantize", str(export), *options]) == 0
    assert "calibrated on 256 samples, measured on 944" in capsys.readouterr().out
    check(Artefact(out))
    assert main(["edge", "quantize", str(start.path), *options]) == 2
    assert "int8" in capsys.readouterr().err


def test_a_model_with_nothing_to_round_is_refused():
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node("Sin", ["input"], ["output"])],
        "g",
        [helper.make_tensor_value_info("input", 1, ["batch", 2])],
        [helper.make_tensor_value_info("output", 1, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(InputError, match="nothing"):
        quantise(model.SerializeToString(), np.ones((4, 2), np.float32))


def test_no_channels_mean_is_moved_by_rounding():
    import torch
    from torch import nn

    from fedloom_edge.artefact.build import inference
    from fedloom_edge.export import training_graph

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(),
        nn.Flatten(), nn.Linear(8 * 16, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    x = np.random.default_rng(0).gamma(0.5, size=(100, 2, 8, 8)).astype(np.float32)
    model = inference(training_graph(net, x[:1]), None).SerializeToString()
    folded, rounded = fold_and_quantise(model, x)
    layers = {n.name: n.output[0] for n in folded.graph.node if n.op_type in ("Conv", "Gemm")}
    wanted = dict(zip(layers, channel_means(folded, [*layers.values()], x), strict=True))

    def errors():
        """Largest difference of a channel's mean in each layer, in units of its bias."""
        nodes = {n.name: n for n in rounded.graph.node}
        stored = {i.name: numpy_helper.to_array(i) for i in rounded.graph.initializer}
        makers = {o: n for n in rounded.graph.node for o in n.output}
        found = channel_means(rounded, [nodes[name].output[0] for name in layers], x)
        units = [stored[makers[nodes[name].input[2]].input[1]] for name in layers]
        return [
            np.abs((m - wanted[name]) / unit).max()
            for name, m, unit in zip(layers, found, units, strict=True)
        ]

    before = errors()
    correct_biases(folded, rounded, x)
    assert max(before) > 2  # there was something to correct
    assert max(errors()) < 0.6  # half a unit, and what single precision adds
    assert rounded.SerializeToString() == quantise(model, x)
