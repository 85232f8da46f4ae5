"""Our updates beside ONNX's training operators: its backend's node tests, and its reference evaluator.

Adagrad is none of our optimisers. The node tests of Adam have other coefficients and count steps from 0,
without bias correction, so Adam is held to the operator's reference with ours.
"""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fedloom_edge.autodiff.optimisers import ADAM_EPSILON, BETA_1, BETA_2, Scalars, Update, state_names
from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.values import Value
from fedloom_edge.step_settings import StepSettings

FEW = st.integers(0, 10_000)


def updated(settings, lr, step, w, d, state):
    """[new parameter, *new state] of our graph."""
    g = Tape()
    arrays = {"w": w, "d": d} | dict(zip(state_names(settings), state, strict=True))
    g.values |= {name: Value(a.dtype, a.shape, a.shape) for name, a in arrays.items()}
    after, states = Update(settings, Scalars("lr", "step"), g)("w", "d", list(state_names(settings)))
    feeds = arrays | {"lr": np.array(lr, np.float32), "step": np.array(step, np.int64)}
    read = {name for node in g.nodes for name in node.input}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
        if n in read
    ]
    outputs = [helper.make_tensor_value_info(n, 1, w.shape) for n in (after, *states)]
    graph = helper.make_graph(g.nodes, "update", inputs, outputs, g.initialisers())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {i.name: feeds[i.name] for i in inputs})


@pytest.fixture(scope="module")
def node_tests():
    import warnings

    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its cases overflow on purpose while they are made
        return {case.name: case for case in load_model_tests(kind="node")}


@pytest.mark.parametrize("name", ["momentum", "nesterov_momentum", "momentum_multiple"])
def test_momentum_is_onnxs_by_its_backends_node_tests(node_tests, name):
    case = node_tests[f"test_{name}"]
    given = {a.name: helper.get_attribute_value(a) for a in case.model.graph.node[0].attribute}
    assert given["mode"] in (b"standard", b"nesterov")
    ((inputs, expected),) = case.data_sets
    lr, step, *rest = inputs
    assert step == 0 or given["beta"] == 1  # else its operator has a damping that ours has not
    settings = StepSettings(
        optimizer="momentum" if given["mode"] == b"standard" else "nesterov",
        momentum=given["alpha"],
        weight_decay=given["norm_coefficient"],
    )
    count = len(rest) // 3
    for index in range(count):
        w, d, v = rest[index::count]
        new_w, new_v = updated(settings, lr, 1, w, d, [v])
        np.testing.assert_allclose(new_w, expected[index], rtol=1e-5)
        np.testing.assert_allclose(new_v, expected[count + index], rtol=1e-5)


@given(seed=FEW, step=st.integers(1, 2000), lr=st.floats(1e-4, 0.1), decay=st.sampled_from([0.0, 0.01]))
def test_adam_is_onnxs_operator(seed, step, lr, decay):
    draw = np.random.default_rng(seed)
    w, d, m = draw.normal(size=(3, 4, 5)).astype(np.float32)
    s = (draw.normal(size=(4, 5)) ** 2).astype(np.float32)
    node = helper.make_node(
        "Adam", ["R", "T", "X", "G", "V", "H"], ["x", "v", "h"], domain="ai.onnx.preview.training",
        alpha=BETA_1, beta=BETA_2, norm_coefficient=decay, norm_coefficient_post=0.0,
        epsilon=ADAM_EPSILON * (1 - BETA_2**step) ** 0.5,  # ours is added after the bias is taken out
    )  # fmt: skip
    feeds = {"R": np.float32(lr), "T": np.int64(step), "X": w, "G": d, "V": m, "H": s}
    theirs = ReferenceEvaluator(node).run(None, feeds)
    ours = updated(StepSettings(optimizer="adam", weight_decay=decay), lr, step, w, d, [m, s])
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)
