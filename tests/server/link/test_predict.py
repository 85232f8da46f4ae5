"""A device answers with the newest model that is no worse on its own data, without torch."""

import io
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fedloom_client.data.samples import Shard
from fedloom_client.device import shelf as shelf_module
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.served import FILE, Served
from fedloom_client.device.shelf import Shelf
from fedloom_client.loading import load_data, load_task
from fedloom_client.node import Node
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import load_arrays
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.edge_export import Source, export

from .conftest import until

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
ALONE = """
import sys
from fedloom_edge.cli import main
code = main()
heavy = [name for name in ("torch", "onnx", "flwr") if getattr(sys.modules.get(name), "__file__", None)]
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A served run of two agents without torch, and digits with their labels."""
    folder = tmp_path_factory.mktemp("run") / "served"
    command = [*FEDLOOM, "serve", "digits", "--local", "2", "--rounds", "3", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder, load_data(load_task("digits"), None).test.take(np.arange(40))


def predict(home, *arguments, given=b""):
    command = [sys.executable, "-c", ALONE, "device", "predict", "--home", str(home), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)


def answers(done):
    assert done.returncode == 0, done.stderr.decode()
    header, *lines = done.stdout.decode().splitlines()
    assert header == "prediction,probability"
    return [line.split(",")[0] for line in lines]


def expected(folder, x):
    trainer = TorchTrainer(load_task("digits"))
    outputs = trainer.outputs(load_arrays(folder / "model.safetensors"), x)
    return [str(digit) for digit in outputs.argmax(axis=1)]


def test_the_newest_model_answers_files_and_standard_input_alike(run, tmp_path):
    folder, (x, _) = run
    home = folder / "local" / "local-0"
    facts = Served.read(home / FILE).facts
    known = expected(folder, x) if facts.round == 3 else None
    np.savez(tmp_path / "in.npz", x=x)
    rows = "\n".join(",".join(map(str, image.reshape(-1))) for image in x)
    (tmp_path / "in.csv").write_text(",".join(f"pixel{i}" for i in range(64)) + "\n" + rows)
    got = predict(home, tmp_path / "in.npz")
    assert f"model of round {facts.round}, float, accuracy 0." in got.stderr.decode()
    assert answers(got) == (known or answers(got))
    assert answers(predict(home, tmp_path / "in.csv")) == answers(got)
    assert answers(predict(home, given=rows.encode())) == answers(got)
    assert answers(predict(home, "-", given=(tmp_path / "in.npz").read_bytes())) == answers(got)
    picture = io.BytesIO()
    Image.fromarray((x[5, 0] * 255).round().astype(np.uint8)).save(picture, "PNG")
    (tmp_path / "five.png").write_bytes(picture.getvalue())
    assert answers(predict(home, tmp_path / "five.png")) == answers(got)[5:6]
    assert answers(predict(home, given=picture.getvalue())) == answers(got)[5:6]
    accuracy = np.mean([int(a) == b for a, b in zip(answers(got), run[1][1], strict=True)])
    assert accuracy > 0.85


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", b"1,2,3", "in.csv:1 has 3 numbers; the model takes 64 finite ones"),
        ("in.csv", b",".join([b"1"] * 64) + b"\n" + b",".join([b"x"] * 64), "in.csv:2: could not convert"),
        ("in.csv", b",".join([b"nan"] * 64), "in.csv:1 has a number that is not finite"),
        ("in.npz", b"PK no zip", "cannot be read as npz"),
        ("in.png", b"no image", "cannot be read as an image"),
        ("gone.npz", None, "No such file"),
    ],
)
def test_a_wrong_input_is_one_line(run, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = predict(run[0] / "local" / "local-0", tmp_path / name)
    assert done.returncode == 2
    assert said in done.stderr.decode().splitlines()[-1]
    assert "Traceback" not in done.stderr.decode()


def test_before_a_round_it_says_what_is_missing(tmp_path):
    done = predict(tmp_path)
    assert done.returncode == 2
    assert b"serves no model yet" in done.stderr


def test_a_line_is_answered_by_the_model_that_is_served_when_it_comes(run, tmp_path):
    folder, (x, _) = run
    home = tmp_path / "home"
    home.mkdir()
    served = Served.read(folder / "local" / "local-0" / FILE)
    served.write(home / FILE)
    line = (",".join(map(str, x[0].reshape(-1))) + "\n").encode()
    process = subprocess.Popen(
        [*FEDLOOM, "device", "predict", "--home", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(line)
    process.stdin.flush()
    assert process.stdout.readline() == b"prediction,probability\n"
    first = process.stdout.readline()
    later = Served(replaced(served.facts, round=77), served.model, served.constants)
    later.write(home / FILE)
    process.stdin.write(line)
    process.stdin.close()
    assert process.stdout.readline() == first
    assert b"model of round 77, float" in process.stderr.read()
    assert process.wait(20) == 0


def replaced(facts, **changes):
    return replace(facts, **changes)


@pytest.fixture(scope="module")
def digits():
    """Digits: the task, its data, and arrays of little and of more training."""
    from fedloom_client.trainer import Assignment
    from fedloom_client.training import Training

    task = load_task("digits")
    data = load_data(task, None)
    trainer = TorchTrainer(task)
    fresh = trainer.initial_arrays(1)
    assignment = Assignment(training=Training(optimizer="adam", lr=0.001, epochs=3), seed=1)
    return task, data, fresh, dict(trainer.fit(fresh, Shard(data.train, data.test), assignment).arrays)


def shelf(digits, tmp_path, train="all"):
    task, data, _, trained = digits
    made = tmp_path / f"{train}.fedloom"
    export(Source(task, data, trained, {}, {}), train, 0, made)
    trainer = ArtefactTrainer(task, tmp_path)
    trainer.equip(made)
    trainer.initial_arrays(0)
    return Shelf(tmp_path, Node(task, Shard(data.train, data.test), trainer), trainer)


def offered(shelf, number, arrays):
    shelf.offer(pb.Work(round=number), arrays, {})
    until(lambda: not shelf._busy)


def test_a_model_that_is_worse_here_does_not_take_the_old_ones_place(digits, tmp_path, caplog):
    _, _, fresh, trained = digits
    place = shelf(digits, tmp_path)
    offered(place, 1, fresh)
    offered(place, 2, trained)
    served = Served.read(tmp_path / FILE)
    assert served.facts.round == 2
    assert served.facts.metric > 0.9
    offered(place, 3, fresh)
    assert Served.read(tmp_path / FILE) == served
    assert "the model of round 3 is not served: accuracy 0." in caplog.text
    offered(place, 4, trained)  # as good: the newest
    assert Served.read(tmp_path / FILE).facts.round == 4


def test_a_damaged_or_foreign_file_is_replaced(digits, tmp_path, caplog):
    place = shelf(digits, tmp_path)
    (tmp_path / FILE).write_bytes(b"rotten")
    offered(place, 1, digits[3])
    assert Served.read(tmp_path / FILE).facts.round == 1
    assert "is damaged" in caplog.text
    other = Served.read(tmp_path / FILE)
    Served(replaced(other.facts, task="other", metric=1.0), other.model, {}).write(tmp_path / FILE)
    offered(place, 2, digits[2])
    assert Served.read(tmp_path / FILE).facts.task == "digits"


def test_int8_answers_where_the_artefact_has_it_and_it_is_as_good(digits, tmp_path, monkeypatch):
    _, data, _, trained = digits
    monkeypatch.setattr(
        "fedloom_edge.artefact.serving.latency",
        lambda models, x: {name: {"p50_ms": float("int8" not in name), "p95_ms": 1.0} for name in models},
    )
    place = shelf(digits, tmp_path, "last:1")
    offered(place, 1, trained)
    served = Served.read(tmp_path / FILE)
    assert served.facts.precision == "int8"
    x, y = data.test.take(np.arange(len(data.test)))
    assert abs(np.mean(served.outputs(x, None).argmax(axis=1) == y) - served.facts.metric) < 1e-9


def test_a_round_is_not_held_up_and_only_the_newest_of_many_is_made(digits, tmp_path, monkeypatch):
    place = shelf(digits, tmp_path)
    made, gate = [], threading.Event()
    real = shelf_module.Shelf._consider

    def slow(self, offer):
        made.append(offer.number)
        gate.wait(20)
        real(self, offer)

    monkeypatch.setattr(shelf_module.Shelf, "_consider", slow)
    place.offer(pb.Work(round=1), digits[3], {})
    until(lambda: made)
    for number in range(2, 6):
        place.offer(pb.Work(round=number), digits[3], {})
    gate.set()
    until(lambda: not place._busy)
    assert made == [1, 5]
    assert Served.read(tmp_path / FILE).facts.round == 5
