"""Is this artefact safe to load, and is it whole? A device asks before it loads one.

fedloom edge check FILE
"""

from dataclasses import replace
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load

from fedloom_edge.arrays import Arrays
from fedloom_edge.artefact.graph import Contents, inspect
from fedloom_edge.artefact.manifest import (
    ARRAYS,
    EVALUATE,
    EXPLAIN,
    INFER,
    INT8,
    TRAIN,
    Manifest,
    Tensor,
    step_file,
)
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.errors import DataError, RunError
from fedloom_edge.step_settings import GRADIENT, TARGET, StepSignature, new

FEATURES = "features"
_ORT_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def check(artefact: Artefact) -> dict[str, Contents]:
    """Read and check every file: hashes, safety, that this onnxruntime loads it, names and shapes.

    Returns:
        What was found in each ONNX file.

    Raises:
        DataError: the first thing that is wrong.
    """
    found = {}
    arrays = initial_arrays(artefact)
    for name in artefact.manifest.files:
        if not name.endswith(".onnx"):
            continue
        content = artefact.read(name)
        found[name] = inspect(content, f"{artefact.path}: {name}")
        session = _load(content, f"{artefact.path}: {name}")
        if name in (INFER, INT8):
            _check_inference(artefact.manifest, session, name)
        elif name == EVALUATE:
            _check_inputs(session, arrays)
        elif name == EXPLAIN:
            _check_explanation(artefact.manifest, session)
        else:
            _check_step(artefact.manifest, session, arrays, name)
    return found


def initial_arrays(artefact: Artefact) -> Arrays:
    """The arrays that training starts from.

    Raises:
        DataError: the file is damaged, or lacks an array that is trained.
    """
    try:
        arrays: Arrays = load(artefact.read(ARRAYS))
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{artefact.path}: {ARRAYS} is damaged ({error}); get the artefact again") from error
    for name in artefact.manifest.parameters:
        if name not in arrays:
            raise DataError(
                f"{artefact.path}: {ARRAYS} lacks {name}, which is trained; get the artefact again"
            )
    return arrays


def _load(content: bytes, name: str) -> Any:
    from fedloom_edge.sessions import open_session

    try:
        return open_session(content)
    except RunError as error:
        raise DataError(f"{name} cannot be loaded by this onnxruntime: {error}") from error


def _check_inference(manifest: Manifest, session: Any, name: str) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        raise DataError(f"{name} has {len(inputs)} inputs, one was expected")
    _compare(manifest.input, inputs[0], name)
    _compare(manifest.output, outputs[0], name)
    names = [o.name for o in outputs]
    if manifest.kind == "head" and FEATURES not in names:
        raise DataError(f"{name} has no output {FEATURES!r}, which the head is trained on")


def _compare(expected: Tensor, found: Any, name: str) -> None:
    shape = tuple(found.shape[1:])
    given = Tensor(found.name, _ORT_TYPES.get(found.type, found.type), shape)
    if given != expected:
        raise DataError(f"{name} has {given}, the manifest {expected}; export it again")


def _check_step(manifest: Manifest, session: Any, arrays: Arrays, file: str) -> None:
    try:
        signature = StepSignature.from_metadata(session.get_modelmeta().custom_metadata_map)
    except RunError as error:
        raise DataError(f"{file}: {error}") from error
    said = {TRAIN: manifest.parameters} | {step_file(part): own for part, own in manifest.parts.items()}
    if set(signature.parameters) != set(said[file]):
        raise DataError(f"{file} trains other arrays than the manifest says; export it again")
    shapes = {o.name: tuple(o.shape) for o in session.get_outputs()}
    taken = {i.name: tuple(i.shape) for i in session.get_inputs()}
    told = [(name, shapes.get(new(name))) for name in (*signature.parameters, *signature.statistics)]
    for name, shape in [*told, *((name, taken.get(name)) for name in signature.given)]:
        array = arrays.get(name)
        if array is None or array.dtype.name != "float32" or array.shape != shape:
            raise DataError(f"{ARRAYS} does not fit {file} in {name}; export it again")


def _check_explanation(manifest: Manifest, session: Any) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [entry.name for entry in inputs] != [manifest.input.name, TARGET]:
        raise DataError(f"{EXPLAIN} takes other inputs than {manifest.input.name} and {TARGET}")
    _compare(manifest.input, inputs[0], EXPLAIN)
    _compare(replace(manifest.input, name=GRADIENT), outputs[0], EXPLAIN)


def _check_inputs(session: Any, arrays: Arrays) -> None:
    _, *rest = session.get_inputs()
    for entry in rest:
        if entry.name not in arrays or tuple(entry.shape) != arrays[entry.name].shape:
            raise DataError(f"{ARRAYS} does not fit {EVALUATE} in {entry.name}; export it again")
