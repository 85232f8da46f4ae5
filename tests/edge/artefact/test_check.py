"""`fedloom edge check`: a whole artefact passes; a spoilt or hostile one is refused in one line."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fedloom_edge.artefact.check import check
from fedloom_edge.artefact.graph import inspect
from fedloom_edge.artefact.manifest import FILES, INFER, INT8, MANIFEST, TRAIN
from fedloom_edge.artefact.storage import Artefact, write_artefact
from fedloom_edge.cli import main
from fedloom_edge.errors import DataError


def replaced(folder, name, content):
    """Put another file in, with a manifest that says it belongs there: only a look inside tells."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refused(folder, *words):
    with pytest.raises(DataError) as caught:
        check(Artefact(folder))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 600


def test_a_whole_artefact_passes_as_a_folder_and_as_a_zip(digits, tmp_path, capsys):
    assert main(["edge", "check", str(digits)]) == 0
    artefact = Artefact(digits)
    zipped = tmp_path / "digits.fedloom"
    write_artefact(zipped, artefact.manifest, {n: artefact.read(n) for n in artefact.manifest.files})
    assert main(["edge", "check", str(zipped)]) == 0
    assert "good" in capsys.readouterr().out


def test_checking_needs_neither_torch_nor_onnx(digits):
    code = (
        "import sys\nclass No:\n def find_spec(self, name, *_):\n"
        "  if name.split('.')[0] in ('torch', 'onnx', 'flwr'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\nfrom fedloom_edge.cli import main\n"
        f"sys.exit(main(['edge', 'check', {str(digits)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_truncated_or_changed_file_is_named(copy, name, tmp_path):
    spoilt = shutil.copytree(copy, tmp_path / "truncated")
    (spoilt / name).write_bytes((copy / name).read_bytes()[:-9])
    refused(spoilt, name)
    (copy / name).unlink()
    refused(copy, name)


def test_a_changed_byte_is_found(copy):
    content = bytearray((copy / INFER).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / INFER).write_bytes(content)
    refused(copy, INFER, "not the file that was exported")


def test_every_cut_of_a_graph_is_refused_and_not_run(digits):
    content = (digits / TRAIN).read_bytes()
    for size in range(0, len(content) - 1, 7):
        try:
            found = inspect(content[:size], "cut")
        except DataError:
            continue
        assert found.nodes  # a cut between two fields of the model leaves a graph that is whole


@given(st.binary(max_size=300))
def test_any_bytes_are_a_graph_or_a_data_error(content):
    try:
        inspect(content, "noise")
    except DataError:
        pass
    else:
        onnx.load_from_string(content)


def edited(folder, change):
    model = onnx.load(folder / INFER)
    change(model)
    replaced(folder, INFER, model.SerializeToString())


@pytest.mark.parametrize("place", ["../../secret", "/etc/passwd", "weights.bin"])
def test_external_data_is_refused_wherever_it_points(copy, place):
    def outside(model):
        array = model.graph.initializer[0]
        array.ClearField("raw_data")
        array.data_location = TensorProto.EXTERNAL
        array.external_data.add(key="location", value=place)

    edited(copy, outside)
    refused(copy, INFER, "another file")


def test_an_array_that_claims_to_be_larger_is_refused(copy):
    def huge(model):
        model.graph.initializer[0].dims[0] = 1 << 40

    edited(copy, huge)
    refused(copy, INFER, "does not hold")


def test_operators_of_other_domains_and_loops_are_refused(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")

    def foreign(model):
        model.graph.node[0].domain = "evil.corp"

    edited(copy, foreign)
    refused(copy, "evil.corp")

    def loop(model):
        model.graph.node[0].op_type = "Loop"

    edited(other, loop)
    refused(other, "Loop")


def test_a_bomb_in_a_subgraph_is_found(copy):
    def nest(model):
        inner = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "inner", [], [])
        for _ in range(12):
            node = helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
            inner = helper.make_graph([node], "outer", [], [])
            if inner.ByteSize() > 1 << 20:
                break
        model.graph.node.append(inner.node[0])

    edited(copy, nest)
    refused(copy, "nested")


def test_a_graph_that_this_runtime_does_not_know_is_refused(copy):
    def unknown(model):
        model.graph.node[0].op_type = "Reluu"

    edited(copy, unknown)
    refused(copy, INFER, "cannot be loaded")


def test_a_train_step_of_other_arrays_is_refused(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["parameters"] = manifest["parameters"][:1]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    refused(copy, TRAIN)


def test_shapes_are_compared_with_the_manifest(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["input"]["shape"] = [3, 3]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    refused(copy, "Tensor")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"files": {"../../escape": {"bytes": 1, "sha256": "0" * 64}}},
        {"input": {"name": "input", "dtype": "float32", "shape": [1 << 60]}},
        {"input": {"name": "input", "dtype": "object", "shape": [1]}},
        {"classes": 3},
        {"serve": "/bin/sh"},
        {"kind": "everything"},
    ],
)
def test_a_garbled_manifest_is_refused(copy, change):
    manifest = json.loads((copy / MANIFEST).read_text()) | change
    (copy / MANIFEST).write_text(json.dumps(manifest))
    refused(copy, MANIFEST)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "[" * 100_000, "\x00\xff"])
def test_a_manifest_that_is_no_manifest_is_refused(copy, text):
    (copy / MANIFEST).write_text(text, encoding="latin-1")
    refused(copy, MANIFEST)


def test_links_and_pipes_in_a_folder_are_not_followed(copy, tmp_path):
    secret = tmp_path / "secret"
    shutil.move(copy / INFER, secret)
    (copy / INFER).symlink_to(secret)
    refused(copy, INFER)
    (copy / INFER).unlink()
    os.mkfifo(copy / INFER)
    refused(copy, INFER)


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def test_a_zip_with_other_names_or_twice_the_same_is_refused(digits, tmp_path):
    manifest = (MANIFEST, (digits / MANIFEST).read_bytes())
    refused(zipped(tmp_path / "a.fedloom", [manifest, ("../../escape.onnx", b"x")]), "escape")
    refused(zipped(tmp_path / "b.fedloom", [manifest, ("/etc/cron.d/x", b"x")]), "cron")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(tmp_path / "c.fedloom", [manifest, manifest])
    refused(twice, "twice")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fedloom", "b.fedloom", "c.fedloom"]


def test_a_zip_bomb_is_read_no_further_than_the_manifest_says(digits, tmp_path):
    entries = [(n, (digits / n).read_bytes()) for n in (*FILES, MANIFEST) if n != INFER]
    bomb = zipped(tmp_path / "bomb.fedloom", [*entries, (INFER, b"\0" * (200 << 20))])
    assert bomb.stat().st_size < 2 << 20
    refused(bomb, INFER)
    huge = zipped(tmp_path / "huge.fedloom", [(MANIFEST, b" " * (40 << 20))])
    refused(huge, MANIFEST)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x00" * 100])
def test_what_is_no_zip_is_refused(tmp_path, content, capsys):
    path = tmp_path / "x.fedloom"
    path.write_bytes(content)
    assert main(["edge", "check", str(path)]) == 2
    assert "neither a folder nor a whole zip" in capsys.readouterr().err


def test_a_missing_artefact_is_said(capsys):
    assert main(["edge", "check", "nowhere.fedloom"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_inspection_finds_what_onnx_finds(digits):
    for name in (INFER, INT8):
        content = (digits / name).read_bytes()
        found, model = inspect(content, name), onnx.load_from_string(content)
        assert found.nodes == len(model.graph.node)
        assert {i.name for i in model.graph.initializer if i.HasField("raw_data")} == set(found.stored)
        for array in model.graph.initializer:
            place = found.stored[array.name]
            raw = content[place.start : place.start + place.size]
            assert raw == numpy_helper.to_array(array).tobytes()
            assert place.shape == tuple(array.dims)


def test_numbers_outside_raw_bytes_are_counted():
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
        [helper.make_tensor("c", 1, [2], np.ones(2, np.float32))],
    )
    model = helper.make_model(graph)
    assert inspect(model.SerializeToString(), "m").nodes == 1
    model.graph.initializer[0].dims[0] = 50
    with pytest.raises(DataError, match="does not hold"):
        inspect(model.SerializeToString(), "m")
