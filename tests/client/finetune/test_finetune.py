"""`fedloom edge finetune`: a device trains on its own data without torch, and serves what it learned."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from fedloom_client.data.samples import ArraySamples
from fedloom_client.finetune.features import Features
from fedloom_edge.arrays import load_arrays
from fedloom_edge.artefact.check import check, initial_arrays
from fedloom_edge.artefact.manifest import ARRAYS, INFER, INT8
from fedloom_edge.artefact.serving import predict
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.cli import main
from fedloom_edge.errors import RunError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    run = str(folder / "run")
    assert main(["simulate", "digits", "--clients", "2", "--rounds", "2", "--seed", "1", "--out", run]) == 0
    assert main(["edge", "export", run, "--out", str(folder / "head")]) == 0
    assert main(["edge", "export", run, "--train", "all", "--out", str(folder / "all.fedloom")]) == 0
    return folder


@pytest.fixture(scope="module")
def data(digits):
    from fedloom_client.loading import load_data, load_task

    x, y = load_data(load_task("digits"), None).train.take(np.arange(600))
    path = digits / "data.npz"
    np.savez(path, x=x, y=(y + 1) % 10)  # this device calls every digit by the next one's name
    return path


def tune(artefact, data, out, *options):
    return main(["edge", "finetune", str(artefact), "--data", str(data), "--out", str(out), *options])


def accuracy(text):
    before, now = text.split("held-out samples: ")[1].split("\n")[0].split(", ")
    return float(before.split()[0]), float(now.split()[0])


@pytest.mark.parametrize("kind", ["head", "all.fedloom"])
def test_it_learns_and_what_it_writes_is_whole(digits, data, tmp_path, capsys, kind):
    out = tmp_path / kind
    assert tune(digits / kind, data, out, "--epochs", "8") == 0
    before, now = accuracy(capsys.readouterr().out)
    assert before < 0.2
    assert now > 0.8
    tuned = Artefact(out)
    check(tuned)
    assert tuned.manifest.provenance["finetuned"][0]["epochs"] == 8
    assert (INT8 in tuned.manifest.files) == (kind == "head")


def test_the_served_model_computes_with_the_trained_arrays(digits, data, tmp_path):
    """The float model, patched byte by byte, gives what the evaluation graph gives of the arrays."""
    from fedloom_client.finetune.graphs import ArtefactGraphs

    out = tmp_path / "out"
    assert tune(digits / "all.fedloom", data, out, "--epochs", "2") == 0
    tuned = Artefact(out)
    x = np.load(data)["x"][:50]
    expected = ArtefactGraphs(tuned).evaluator(x)(load_arrays(out / ARRAYS), x)
    assert np.allclose(predict(tuned.read(INFER), x), expected, atol=1e-5)


def test_a_tuned_artefact_can_be_tuned_again_and_equal_arguments_give_equal_arrays(digits, data, tmp_path):
    for name in ("one", "two"):
        assert tune(digits / "head", data, tmp_path / name, "--seed", "3") == 0
        assert tune(tmp_path / name, data, tmp_path / f"{name}-again") == 0
    one, two = (Artefact(tmp_path / f"{name}-again") for name in ("one", "two"))
    assert one.read(ARRAYS) == two.read(ARRAYS)
    assert len(one.manifest.provenance["finetuned"]) == 2
    assert one.read(ARRAYS) != Artefact(digits / "head").read(ARRAYS)


def test_without_room_in_the_cache_the_result_is_the_same(digits, data, tmp_path):
    for name, megabytes in (("whole", "10"), ("part", "0.05"), ("none", "0")):
        assert tune(digits / "head", data, tmp_path / name, "--cache-mb", megabytes) == 0
    whole, part, none = (Artefact(tmp_path / name).read(ARRAYS) for name in ("whole", "part", "none"))
    assert whole == part == none


def test_it_needs_neither_torch_nor_onnx_nor_flower(digits, data, tmp_path):
    code = (
        "import sys\nclass No:\n def find_spec(self, name, *_):\n"
        "  if name.split('.')[0] in ('torch', 'onnx', 'flwr', 'PIL', 'sklearn'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\nfrom fedloom_edge.cli import main\n"
        f"sys.exit(main(['edge', 'finetune', {str(digits / 'head')!r}, '--data', {str(data)!r}, "
        f"'--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_loss_that_is_not_finite_stops_and_the_last_good_arrays_are_kept(digits, data, tmp_path, capsys):
    file = np.load(data)
    x = file["x"].copy()
    x[599] = np.float32(3e38)
    np.savez(tmp_path / "wild.npz", x=x, y=file["y"])
    out = tmp_path / "out"
    assert tune(digits / "all.fedloom", tmp_path / "wild.npz", out, "--validation", "0", "--seed", "1") == 1
    message = capsys.readouterr().err
    assert "in step " in message
    assert f"they are in {out}" in message
    assert message.count("\n") == 1
    check(Artefact(out))
    kept, start = load_arrays(out / ARRAYS), initial_arrays(Artefact(digits / "all.fedloom"))
    assert all(np.isfinite(array).all() for array in kept.values())
    assert not all(np.array_equal(kept[name], start[name]) for name in start)


def test_no_disk_for_the_features_is_one_clear_error_and_nothing_is_written(
    digits, data, tmp_path, capsys, monkeypatch
):
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    out = tmp_path / "out"
    assert tune(digits / "head", data, out, "--cache-dir", str(tmp_path / "cache")) == 1
    message = capsys.readouterr().err
    assert "No space left" in message
    assert "--cache-dir" in message
    assert not out.exists()
    assert not list((tmp_path / "cache").iterdir())


def bad_npz(folder, data, **changes):
    file = np.load(data)
    np.savez(folder / "bad.npz", **({"x": file["x"], "y": file["y"]} | changes))
    return folder / "bad.npz"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: {"y": np.where(np.arange(len(y)) == 7, 10, y)}, ["a label is 10", "0 to 9"]),
        (lambda x, y: {"y": y - 1}, ["a label is -1"]),
        (lambda x, y: {"y": y + 0.5}, ["classes"]),
        (lambda x, y: {"x": x[..., :3]}, ["the model takes float32"]),
        (lambda x, y: {"x": np.where(np.arange(len(x)) == 5, np.nan, x.T).T}, ["sample 5", "not finite"]),
        (lambda x, y: {"y": y[:-1]}, ["one row an example"]),
        (lambda x, y: {"x": x[:1], "y": y[:1]}, ["two at least"]),
    ],
    ids=["label", "negative", "float-label", "shape", "nan", "length", "one"],
)
def test_data_that_does_not_fit_is_refused_before_training(digits, data, tmp_path, capsys, change, words):
    file = np.load(data)
    path = bad_npz(tmp_path, data, **change(file["x"], file["y"]))
    assert tune(digits / "head", path, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_data_are_refused(digits, tmp_path, capsys):
    (tmp_path / "x.npz").write_bytes(b"PK no")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object), y=np.zeros(1))
    np.savez(tmp_path / "names.npz", inputs=np.zeros(1))
    for name in ("x.npz", "objects.npz", "names.npz", "missing.npz", "x.parquet"):
        assert tune(digits / "head", tmp_path / name, tmp_path / "out") == 2
        assert name in capsys.readouterr().err


def test_images_in_folders_are_sorted_into_the_models_classes(digits, data, tmp_path, capsys):
    from PIL import Image

    file = np.load(data)
    for index in range(60):
        folder = tmp_path / "images" / str(file["y"][index])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (file["x"][index].reshape(8, 8) * 255 / max(file["x"].max(), 1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    shape = Artefact(digits / "head").manifest.input.shape
    code = tune(digits / "head", tmp_path / "images", tmp_path / "out")
    assert code == (0 if len(shape) == 3 else 2), capsys.readouterr().err


def test_features_are_computed_once_and_bounded(tmp_path):
    calls = []

    def compute(x):
        calls.append(len(x))
        return (2 * x).astype(np.float32)

    samples = ArraySamples(np.arange(100, dtype=np.float32)[:, None], np.arange(100))
    features = Features(samples, compute, tmp_path, limit=60 * 4)
    assert features.cached == 60
    calls.clear()
    order = np.random.default_rng(0).permutation(60)
    x, y = features.take(order)
    assert not calls
    assert np.array_equal(x[:, 0], 2.0 * order)
    assert np.array_equal(y, order)
    x, y = features.take(np.array([3, 99, 5]))
    assert calls == [1]
    assert x[:, 0].tolist() == [6, 198, 10]
    assert y.tolist() == [3, 99, 5]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    samples = ArraySamples(np.zeros((4, 1), np.float32), np.zeros(4))
    with pytest.raises(RunError, match="no room"):
        Features(samples, lambda x: x, tmp_path / "file" / "cache", limit=100)


def test_csv_with_class_names(tmp_path, capsys):
    """The task tabular standardises: its constants come with the artefact."""
    from fedloom_client.loading import load_data, load_task

    artefact = tmp_path / "tabular"
    assert main(["edge", "export", "tabular", "--train", "all", "--out", str(artefact)]) == 0
    samples = load_data(load_task("tabular"), None).train
    x, y = samples.take(np.arange(200))
    lines = [",".join([*(f"f{i}" for i in range(x.shape[1])), "label"])]
    lines += [
        ",".join([*(f"{v:.6g}" for v in row), str(int(label))]) for row, label in zip(x, y, strict=True)
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    assert tune(artefact, tmp_path / "table.csv", tmp_path / "out", "--epochs", "10") == 0
    before, now = accuracy(capsys.readouterr().out.split("tabular", 1)[1])
    assert now > max(before, 0.85)
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert manifest["preprocess"]["kind"] == "standardize"


@pytest.mark.parametrize(("int8_ms", "expected"), [(0.5, INT8), (1.5, INFER)])
def test_a_head_is_trained_and_served_on_the_backbone_that_is_faster(
    digits, data, tmp_path, capsys, int8_ms, expected
):
    start = Artefact(digits / "head")
    manifest = json.loads((digits / "head" / "manifest.json").read_text())
    manifest["measured"][INFER]["p50_ms"], manifest["measured"][INT8]["p50_ms"] = 1, int8_ms
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in start.manifest.files:
        (copy / name).write_bytes(start.read(name))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert tune(copy, data, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert f"training samples by {expected}" in out
    assert Artefact(tmp_path / "out").manifest.serve == expected
