"""A torch model as ONNX: the same outputs for every kind of built-in model, quietly and atomically."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fedloom_edge.errors import RunError
from fedloom_edge.export import OPSET, export_onnx, standardized
from fedloom_edge.onnx_check import check_onnx


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body = kind(5, 12, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(12, 1)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1]).squeeze(-1)


class Transformer(nn.Module):
    """Padding masks twice: in the encoder's and in a bare attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        padding = tokens == 0
        x = self.encoder(self.embed(tokens), src_key_padding_mask=padding)
        x = x + self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        keep = (~padding).unsqueeze(-1)
        return self.head((x * keep).sum(1) / keep.sum(1))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def floats(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def tokens(count):
    draw = np.random.default_rng(3)
    ids, lengths = draw.integers(1, 50, (count, 9)), draw.integers(1, 10, count)
    return np.where(np.arange(9) < lengths[:, None], ids, 0)


def outputs(model, x):
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize(
    ("make", "x"),
    [
        pytest.param(cnn, floats(5, 1, 8, 8), id="cnn"),
        pytest.param(lambda: Recurrent(nn.GRU), floats(5, 7, 5), id="gru"),
        pytest.param(lambda: Recurrent(nn.LSTM), floats(5, 7, 5), id="lstm"),
        pytest.param(Transformer, tokens(5), id="transformer"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), floats(5, 6), id="mlp"
        ),
    ],
)
def test_the_graph_computes_what_the_model_does_at_every_batch_size(tmp_path, make, x):
    torch.manual_seed(0)
    model = make().train()
    model(torch.from_numpy(x))  # moves batch norm's statistics off their start
    export_onnx(model, x[:1], tmp_path / "model.onnx")
    assert model.training
    expected = outputs(model, x)
    for size in (1, 2, 5):
        assert check_onnx(tmp_path / "model.onnx", x[:size], expected[:size]) < 1e-5


def test_the_file_is_alone_and_of_a_known_opset(tmp_path):
    export_onnx(cnn(), floats(1, 1, 8, 8), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == OPSET >= 18
    assert [entry.name for entry in (*graph.graph.input, *graph.graph.output)] == ["input", "output"]


@pytest.mark.parametrize(("axis", "features"), [(-1, 6), (1, 4), (None, 1)])
def test_a_standardized_graph_takes_raw_features(tmp_path, axis, features):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    mean, deviation = np.linspace(1900.0, 2100.0, features), np.linspace(0.5, 3.0, features)
    shape = {-1: (1, 1, 6), 1: (1, 4, 1), None: (1, 1, 1)}[axis]
    raw = (mean.reshape(shape) + deviation.reshape(shape) * floats(5, 4, 6)).astype(np.float32)
    ready = ((raw - mean.reshape(shape)) / deviation.reshape(shape)).astype(np.float32)
    export_onnx(standardized(model, mean, deviation, axis), raw[:1], tmp_path / "model.onnx")
    assert check_onnx(tmp_path / "model.onnx", raw, outputs(model, ready)) < 1e-5
    with pytest.raises(RunError, match="differ"):
        check_onnx(tmp_path / "model.onnx", ready, outputs(model, ready))


def test_an_operator_that_the_tracer_lacks_is_exported_all_the_same_and_nothing_is_printed(tmp_path, capfd):
    x = floats(5, 6)
    model = nn.RMSNorm(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, x[:1], tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert check_onnx(tmp_path / "model.onnx", x, outputs(model, x)) < 1e-5
    assert not any(node.metadata_props for node in onnx.load(tmp_path / "model.onnx").graph.node)


def test_a_graph_with_a_fixed_batch_size_is_refused_and_the_old_file_stays(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x * torch.ones(int(x.shape[0]), 1).cumsum(0)

    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(RunError, match=r"model\.onnx: the model cannot be written as ONNX"):
        export_onnx(Fixed(), floats(1, 6), path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """A graph that gives back its inputs (B, 2) plus zero."""
    path = tmp_path_factory.mktemp("identity") / "model.onnx"

    class Same(nn.Module):
        def forward(self, x):
            return x + 0.0

    export_onnx(Same(), floats(1, 2), path)
    return path


def test_check_returns_the_largest_difference(identity):
    x = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    expected = x + np.array([[0, 5e-5], [1e-5, 0]], np.float32)
    assert check_onnx(identity, x, expected) == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize(
    ("shift", "fault"),
    [(1e-3, "differ from the model's by 0.001"), (np.nan, "differ"), (np.inf, "differ")],
)
def test_check_refuses_other_outputs(identity, shift, fault):
    x = np.ones((3, 2), np.float32)
    with pytest.raises(RunError, match=fault):
        check_onnx(identity, x, x + np.array([[0, 0], [0, shift], [0, 0]], np.float32))


def test_check_allows_more_where_outputs_are_large(identity):
    x = np.full((3, 2), 1000.0, np.float32)
    assert check_onnx(identity, x, x + np.float32(0.01)) == pytest.approx(0.01, rel=0.01)


def test_check_refuses_other_shapes_and_inputs(identity):
    x = np.ones((3, 2), np.float32)
    with pytest.raises(RunError, match=r"shape \(3, 2\), the model's \(3,\)"):
        check_onnx(identity, x, x[:, 0])
    with pytest.raises(RunError, match="onnxruntime cannot run it"):
        check_onnx(identity, x.astype(np.int64), x)
