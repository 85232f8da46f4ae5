"""`fedloom edge explain`: the attributions of a device without torch are Captum's."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from fedloom_client.attribution import attribute, patches
from fedloom_client.explain import METHODS
from fedloom_client.loading import load_data, load_task
from fedloom_edge.artefact.build import inference
from fedloom_edge.artefact.check import initial_arrays
from fedloom_edge.artefact.graph import inspect
from fedloom_edge.artefact.manifest import EXPLAIN
from fedloom_edge.artefact.patch import stored_array
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.autodiff.evaluation import build_input_gradient
from fedloom_edge.cli import main
from fedloom_edge.export import training_graph
from fedloom_edge.sessions import open_session
from fedloom_simulations.explain import attribution as captums

IMAGES = (
    nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(48, 5),
    ),
    (1, 8, 8),
)  # fmt: skip
FORECAST = (nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 1)), (3, 10))
TABLE = (nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3)), (7,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [IMAGES, FORECAST, TABLE])
def test_attributions_are_captums(model, method):
    torch.manual_seed(1)
    module, shape = model
    module.eval()
    x = np.random.default_rng(2).normal(size=(4, *shape)).astype(np.float32)
    plain = inference(training_graph(module, x[:1]), None)
    answers = open_session(plain.SerializeToString())
    slopes = open_session(build_input_gradient(plain).SerializeToString())
    found = attribute(
        lambda inputs: answers.run(None, {"input": inputs})[0].reshape(len(inputs), -1),
        lambda inputs, targets: slopes.run(None, {"input": inputs, "y": targets})[0],
        x,
        method,
    )
    expected = captums.attribute(module, torch.from_numpy(x), method)
    assert np.array_equal(found.targets, expected.targets)
    assert np.allclose(found.outputs, expected.outputs, atol=1e-5)
    assert np.allclose(found.values, expected.values, rtol=1e-3, atol=1e-4)
    assert found.gap == pytest.approx(expected.gap, abs=1e-2) if method == METHODS[0] else found.gap is None


@pytest.mark.parametrize(("shape", "tokens"), [((3, 28, 28), False), ((6, 128), False), ((9, 4), True)])
def test_patches_are_numbered_without_a_hole_and_cover_the_input(shape, tokens):
    found = patches(shape, tokens=tokens)
    assert found.shape == shape
    assert set(found.ravel()) == set(range(found.max() + 1))
    if tokens:
        assert (found == np.arange(9)[:, None]).all()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artefact of digits with what gradients need, and its data as a file."""
    folder = tmp_path_factory.mktemp("explained")
    assert main(["edge", "export", "digits", "--explain", "--out", str(folder / "digits.fedloom")]) == 0
    x, y = load_data(load_task("digits"), None).test.take(np.arange(60))
    np.savez(folder / "mine.npz", x=x, y=y)
    return folder


def explain(folder, artefact, *options):
    out = ["--out", str(folder / "explain.json"), "--data", str(folder / "mine.npz")]
    code = main(["edge", "explain", str(artefact), *out, *options])
    return json.loads((folder / "explain.json").read_text()) if code == 0 else code


def test_a_device_is_told_what_its_model_looks_at(made, capsys):
    said = explain(made, made / "digits.fedloom", "--samples", "3")
    assert [len(entry["attribution"][0]) for entry in said["samples"]] == [8, 8, 8]
    assert "best-attributed fifth" in capsys.readouterr().out


def test_a_trained_artefact_is_explained_with_its_new_arrays(made, tmp_path):
    for name in ("digits.fedloom", "mine.npz"):
        shutil.copy(made / name, tmp_path)
    before = explain(tmp_path, tmp_path / "digits.fedloom")
    tuned = tmp_path / "digits-tuned.fedloom"
    options = ["--data", str(tmp_path / "mine.npz"), "--epochs", "2"]
    assert main(["edge", "finetune", str(tmp_path / "digits.fedloom"), *options]) == 0
    assert main(["edge", "check", str(tuned)]) == 0
    assert explain(tmp_path, tuned)["samples"][0] != before["samples"][0]
    content = Artefact(tuned).read(EXPLAIN)
    for name, array in initial_arrays(Artefact(tuned)).items():
        assert np.array_equal(stored_array(content, inspect(content, EXPLAIN), name), array)


@pytest.mark.parametrize(("out", "words"), [("nope/x.json", "make it first"), (".", "name a file")])
def test_where_nothing_can_be_written_is_said_before_any_work(made, tmp_path, capsys, out, words):
    options = ["--data", str(made / "mine.npz"), "--out", str(tmp_path / out)]
    assert main(["edge", "explain", str(tmp_path / "not even looked at"), *options]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_what_cannot_be_explained_is_refused_in_words(made, tmp_path, capsys):
    assert main(["edge", "export", "sentiment", "--explain", "--out", str(tmp_path / "s.fedloom")]) == 2
    assert "only floats have gradients" in capsys.readouterr().err
    assert explain(made, made / "digits.fedloom", "--samples", "0") == 2
    assert main(["edge", "export", "digits", "--out", str(tmp_path / "plain")]) == 0
    assert "explain.onnx" not in Artefact(tmp_path / "plain").manifest.files
    assert explain(made, tmp_path / "plain") == 2
    assert "export it with --explain, or take --method occlusion" in capsys.readouterr().err
    assert explain(made, tmp_path / "plain", "--method", "occlusion")["method"] == "occlusion"
