"""Straight-through gradients of rounding, against torch's fake quantisation."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from fedloom_edge.autodiff import StepSettings, build_train_step


def rounding(kind, scale, zero, weight):
    """out = DQ(Q(x W)) with an activation's (kind uint8) scale and zero point."""
    arrays = {"w": weight, "s": np.float32(scale), "z": kind(zero)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "w"], ["h"]),
            helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["output"]),
        ],
        "rounding",
        [helper.make_tensor_value_info("input", 1, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("output", 1, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    scale=st.floats(0.001, 0.1),
    shift=st.integers(0, 255),
)
def test_the_step_is_torchs_with_fake_quantisation(kind, seed, rows, inputs, outputs, scale, shift):
    scale = float(np.float32(scale))
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    zero = low + shift
    draw = np.random.default_rng(seed)
    x, w = (draw.normal(size=s).astype(np.float32) for s in ((rows, inputs), (inputs, outputs)))
    y = draw.normal(size=(rows, outputs)).astype(np.float32)
    step = build_train_step(
        rounding(kind, scale, zero, w), StepSettings(loss="mse", optimizer="sgd"), trainable=["w"]
    )
    session = onnxruntime.InferenceSession(step.SerializeToString())
    feeds = {"input": x, "y": y.reshape(-1), "lr": np.float32(0.1), "w": w}
    feeds = {n: np.asarray(a) for n, a in feeds.items() if n in {i.name for i in session.get_inputs()}}
    (ours,) = session.run(["new/w"], feeds)
    tensor = torch.tensor(w, requires_grad=True)
    h = torch.from_numpy(x) @ tensor
    # A value on the border of a step is rounded either way by sums in another order.
    at = (h / scale).detach().numpy()
    if np.any(np.abs(at - np.floor(at) - 0.5) < 1e-3):
        return
    out = torch.fake_quantize_per_tensor_affine(h, scale, zero, low, high)
    torch.nn.functional.mse_loss(out, torch.from_numpy(y)).backward()
    theirs = w - 0.1 * tensor.grad.numpy()
    # At the range's very ends torch's mask is of the rounded value, ours of the value itself.
    ends = np.isin(np.rint(at) + zero, [low, high]).any()
    if not ends:
        assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
