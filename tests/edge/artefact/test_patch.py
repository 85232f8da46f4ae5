"""Trained arrays are put into a model in place, without onnx, and nothing else moves."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fedloom_edge.artefact.graph import inspect
from fedloom_edge.artefact.manifest import INFER, INT8
from fedloom_edge.artefact.patch import patch, stored_array
from fedloom_edge.errors import RunError


@pytest.mark.parametrize("file", [INFER, INT8])
def test_the_model_has_the_new_arrays_and_all_the_rest_as_before(artefact, file):
    content = artefact.read(file)
    name = artefact.manifest.parameters[0]
    old = stored_array(content, inspect(content, file), name)
    new = np.random.default_rng(0).normal(size=old.shape).astype(np.float32)
    changed = patch(content, {name: new})
    before, after = onnx.load_from_string(content), onnx.load_from_string(changed)
    for one, two in zip(before.graph.initializer, after.graph.initializer, strict=True):
        expected = new if one.name == name else numpy_helper.to_array(one)
        assert np.array_equal(numpy_helper.to_array(two), expected)
    assert list(before.graph.node) == list(after.graph.node)
    x = np.random.default_rng(1).normal(size=(2, *artefact.manifest.input.shape)).astype(np.float32)
    outputs = [onnxruntime.InferenceSession(m).run(["output"], {"input": x})[0] for m in (content, changed)]
    assert not np.allclose(*outputs)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.float32), np.zeros((10, 64), np.float64)], ids=["shape", "dtype"]
)
def test_another_shape_or_dtype_is_refused(artefact, array):
    with pytest.raises(RunError, match="cannot take"):
        patch(artefact.read(INFER), {artefact.manifest.parameters[0]: array})
    with pytest.raises(RunError, match="cannot take"):
        patch(artefact.read(INFER), {"nobody": array})
