"""A device that plans its rounds: by what was measured, within memory and deadline, and as its uplink is."""

import argparse
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from torch import nn

from fedloom_client import ArraySamples, Data, Shard, Task, Training
from fedloom_client.device import planning
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.memory import Memory
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.device.pace import PaceBook, Point
from fedloom_client.device.planning import Planner, applied, measured
from fedloom_client.device.workshop import Watch
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.node import Node
from fedloom_client.orders import RUN, Given, Orders
from fedloom_client.planner.plan import Limits, Pace, plan
from fedloom_client.trainer import Assignment
from fedloom_client.wire import settings
from fedloom_edge.artefact.check import check
from fedloom_edge.artefact.manifest import read_manifest, step_file
from fedloom_edge.artefact.storage import Artefact, write_artefact
from fedloom_edge.compression import PAYLOAD
from fedloom_edge.energy import PowerSensor
from fedloom_edge.errors import DataError, RunError, TrainingError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.link.artefact import run_artefact
from fedloom_server.link.serve import add_arguments
from fedloom_server.link.serving import Serving
from fedloom_server.rounds.decoding import Decoder
from fedloom_server.rounds.plan import Plan
from fedloom_server.strategies.registry import make_strategy

from .conftest import AddOne, questions, until
from .thin import ThinLine

RNG = np.random.default_rng(0)
SAMPLES = ArraySamples(RNG.normal(size=(64, 6)).astype(np.float32), np.arange(64) % 2)
DATA = Data(SAMPLES, SAMPLES)
TRAINING = Training(batch_size=16, epochs=4)
TASK = Task(
    name="small",
    model=lambda: nn.Sequential(nn.Linear(6, 600), nn.ReLU(), nn.Linear(600, 2)),
    data=lambda _: DATA,
    training=TRAINING,
)
PLANNED = Orders(plan=True)
adopt_identity()


class Device:
    """A node that trains with an artefact, and its planner."""

    def __init__(self, folder, path):
        trainer = ArtefactTrainer(TASK, folder)
        trainer.equip(path)
        self.node = Node(TASK, Shard(SAMPLES, ArraySamples(SAMPLES.x[:0], SAMPLES.y[:0])), trainer)
        self.book = PaceBook(folder / "pace.json")
        self.planner = Planner(self.book, lambda: trainer.path, 85.0)
        self.key = path.stem
        self.arrays = trainer.initial_arrays(0)

    def train(self, orders, seconds=math.inf, memory=None, **training):
        given = Given(arrays=self.arrays, broadcast={}, constants={}, memory=memory or {})
        assignment = Assignment(training=replace(TRAINING, **training), seed=1)
        return self.planner.train(self.node, given, assignment, orders, time.monotonic() + seconds)


def exported(folder, orders):
    job = Plan(task=TASK, training=TRAINING, rounds=1, clients=1, seed=0, orders=orders)
    strategy = make_strategy("fedavg", {}, clients=1, lr=0.05)
    path, why = run_artefact(job, strategy, DATA, folder)
    assert path, why
    return path


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("run"), Orders())


@pytest.fixture
def device(tmp_path, artefact):
    return Device(tmp_path, artefact)


def test_it_measures_itself_once_and_does_all_where_there_is_time(device):
    update, _ = device.train(PLANNED)
    small, large = device.book.points(device.key, "")
    assert (small.batch, large.batch) == (4, 16)
    assert 0 < small.bytes < 1 << 30
    assert update.metrics["steps"] == update.metrics["planned-steps"] == 16
    assert (update.examples, update.warnings) == (64, ())
    device.train(PLANNED)
    assert [point.bytes for point in device.book.points(device.key, "")] == [small.bytes, large.bytes]


def test_a_slow_device_plans_fewer_steps_and_its_update_counts_what_it_saw(device):
    device.book.measured(device.key, "", [Point(16, 2.0)])
    update, _ = device.train(PLANNED, seconds=8.5)
    assert update.metrics["steps"] == 3  # nine tenths of 8.5 s
    assert update.examples == 48
    (warning,) = update.warnings
    assert warning.startswith("plan: 3 of 16 steps: 7.6")
    (point,) = device.book.points(device.key, "")
    assert point.seconds < 2  # it was faster than thought


def test_an_algorithm_that_trains_two_models_ends_each_after_the_plans_steps():
    made = plan(Pace(step=1, example=0), Limits(training=TRAINING, examples=64, seconds=8.5))
    assert (made.steps, made.whole) == (6, False)
    planned = applied(made, Assignment(training=TRAINING, seed=1), several=True)
    assert (planned.training.steps, planned.enough) == (6, None)


@pytest.fixture
def tight(device, monkeypatch):
    """300 MB may be taken, of which a batch of 16 needs 400."""
    monkeypatch.setattr(device.planner, "_memory", lambda: 300e6)
    device.book.measured(device.key, "", [Point(4, 1e-4, 100_000_000), Point(16, 1e-4, 400_000_000)])
    return device


def test_a_small_memory_takes_a_smaller_batch(tight):
    update, _ = tight.train(PLANNED)
    assert update.metrics["planned-batch-size"] == 8
    assert update.metrics["steps"] == 4 * 8
    assert update.examples == 64
    assert update.warnings == (
        "plan: batch size 8, not 16: 16 would take 400 MB of the 300 MB that may be taken",
    )


def test_too_small_a_memory_is_a_refusal(tight):
    tight.book.measured(tight.key, "", [Point(16, 1e-4, 400_000_000)])
    with pytest.raises(TrainingError, match="memory: batch size 2: even this takes 400 MB"):
        tight.train(PLANNED)


def test_most_steps_of_a_run_are_as_many_examples_in_smaller_batches(tight):
    assert tight.train(PLANNED, steps=2)[0].metrics["steps"] == 4


def test_a_measurement_keeps_within_the_memory_that_it_is_given(artefact):
    assert measured(artefact, "", 16, 1 << 10) == [Point(2, math.inf, (1 << 10) + 1)]


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(RunError, match="cannot be measured"):
        measured(tmp_path / "none.fedloom", "", 16, 1 << 30)


@pytest.fixture
def parted(tmp_path, monkeypatch):
    """A device whose run lets it train a part of the model; 300 MB may be taken."""
    device = Device(tmp_path, exported(tmp_path / "run", PLANNED))
    monkeypatch.setattr(device.planner, "_memory", lambda: 300e6)
    return device


def check_that_the_last_layer_alone_was_trained(device, update):
    np.testing.assert_array_equal(update.arrays["0.weight"], device.arrays["0.weight"])
    assert not np.array_equal(update.arrays["2.weight"], device.arrays["2.weight"])
    assert list(update.arrays) == list(device.arrays)


def test_a_device_without_time_for_half_of_it_trains_the_last_layers(parted):
    parted.book.measured(parted.key, "", [Point(16, 2.0)])
    parted.book.measured(parted.key, "last:1", [Point(16, 0.5)])
    update, _ = parted.train(PLANNED, seconds=8.5)
    check_that_the_last_layer_alone_was_trained(parted, update)
    assert update.metrics["steps"] == update.metrics["planned-steps"] == 15
    part, steps = update.warnings
    assert part.startswith("plan: trains last:1 alone: for all, 3 of 16 steps: 7.6")
    assert steps.startswith("plan: 15 of 16 steps: 7.6")


@pytest.mark.parametrize(
    ("until", "step", "measured_until", "steps"),
    [
        (6.0, 0.5, 3.0, 5),  # all in .9 of 3 s; measuring a second part would take as much
        (18.0, 2.0, 6.0, 5),  # neither part does half: all in .9 of 12 s, not of the 15 before the second
    ],
)
def test_what_measuring_takes_of_a_round_is_not_planned_with(
    parted, monkeypatch, until, step, measured_until, steps
):
    now = [0.0]

    def slowly(path, part, batch, memory):
        now[0] += 3.0
        return [Point(16, step)]

    monkeypatch.setattr(planning, "measured", slowly)
    monkeypatch.setattr(planning.time, "monotonic", lambda: now[0])
    assignment = Assignment(training=TRAINING, seed=1)
    given = Given(arrays=parted.arrays, broadcast={}, constants={}, memory={})
    update, _ = parted.planner.train(parted.node, given, assignment, PLANNED, until=until)
    assert now == [measured_until]
    assert update.metrics["planned-steps"] == steps


def test_a_device_without_memory_for_it_trains_the_last_layers_and_all_when_there_is_some(parted):
    parted.book.measured(parted.key, "", [Point(2, math.inf, 300_000_001)])
    update, _ = parted.train(PLANNED)
    check_that_the_last_layer_alone_was_trained(parted, update)
    assert update.examples == 64
    assert update.warnings == (
        "plan: trains last:1 alone: for all, batch size 2: even this takes more than 300 MB, and 300 MB may "
        "be taken",
    )
    assert [point.batch for point in parted.book.points(parted.key, "last:1")] == [4, 16]
    parted.planner._memory = lambda: 400e6
    update, _ = parted.train(PLANNED)
    assert not np.array_equal(update.arrays["0.weight"], parted.arrays["0.weight"])
    assert update.warnings == ()


def test_with_no_memory_for_any_part_training_is_refused(parted):
    parted.planner._memory = lambda: 1e3
    with pytest.raises(TrainingError, match="memory: batch size 2: even this takes more than 0 MB"):
        parted.train(PLANNED)


def decoded(device, update):
    """What the coordinator makes of an update."""
    reply = Message(RecordDict({"arrays": to_record(update.arrays)}), 1, "train")
    decoder = Decoder(Orders(compress="auto"), device.arrays, frozenset())
    assert decoder.decode(reply) == ""
    return from_record(reply.content.array_records["arrays"])


def test_the_codec_follows_the_uplink_and_nothing_is_lost_when_it_gets_better(device):
    auto = Orders(compress="auto")
    plain, nothing = device.train(auto)
    assert nothing == {}  # unknown yet: as it is
    device.book.sent(1_000_000, 1e5)  # 10 bytes a second
    slow, memory = device.train(auto)
    assert list(slow.arrays) == [f"{PAYLOAD}:topk:0.01"]
    first = decoded(device, slow)
    for _ in range(40):
        device.book.sent(1_000_000_000, 0.01)
    fast, kept = device.train(auto, memory=memory)
    assert kept == {}
    second = decoded(device, fast)
    for name, array in device.arrays.items():  # both rounds begin at the same arrays
        told = (first[name] - array) + (second[name] - array)
        np.testing.assert_allclose(told, 2 * (plain.arrays[name] - array), atol=1e-5)


@pytest.mark.parametrize("name", [f"{PAYLOAD}:lowrank:4096", f"{PAYLOAD}:", PAYLOAD, "x"])
def test_a_payload_of_another_codec_is_refused(device, name):
    reply = Message(RecordDict({"arrays": to_record({name: np.zeros(9, np.uint8)})}), 1, "train")
    reason = Decoder(Orders(compress="auto"), device.arrays, frozenset()).decode(reply)
    assert reason.startswith("encoding: ")
    assert "is no update of float16, int8, topk:0.01" in reason


def test_a_works_settings_ask_for_the_plan_and_its_figures_have_the_energy(device, tmp_path):
    folder = tmp_path / "board/sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina219\n")
    (folder / "power1_input").write_text("3000000\n")
    power = PowerSensor(tmp_path / "board", lambda: "")
    worker = NodeWorker(device.node, Memory(tmp_path / "memory"), None, device.planner, power)
    asked = settings({**TRAINING.to_config(), **PLANNED.to_config(), RUN: "r"})
    work = pb.Work(id="w", kind=pb.KIND_TRAIN, round=1, settings=asked, seed=1)
    watch = Watch(math.inf, lambda: False, lambda epoch, loss: None)
    began = time.monotonic()
    result, _ = worker.do(work, device.arrays, {}, watch)
    told = {figure.name: figure.value for figure in result.figures}
    assert told["planned-steps"] == 16
    assert 0 < told["energy-joules"] <= 3 * (time.monotonic() - began)
    assert told["energy-estimated"] == 0


def test_an_upload_tells_the_agent_its_bandwidth(site):
    told = []
    site.agent("a", AddOne(), sent=lambda size, seconds: told.append((size, seconds)))
    site.grid.gather(1, 20)
    assert len(list(site.grid.send_and_receive(questions(site.grid)))) == 1
    until(lambda: told)
    ((size, seconds),) = told
    assert size == 4004
    assert seconds > 0


def test_over_a_thin_line_the_second_update_is_compressed(site, device, tmp_path):
    line = ThinLine(site.port, rate=8000)
    worker = NodeWorker(device.node, Memory(tmp_path / "memory"), None, device.planner)
    site.agent("a", worker, port=line.port, sent=device.book.sent)
    site.grid.gather(1, 20)
    settings = {**TRAINING.to_config(), "compress": "auto"}
    sizes = []
    for number in (1, 2):
        asked = questions(site.grid, arrays=device.arrays, number=number, **settings)
        (reply,) = site.grid.send_and_receive(asked)
        arrays = from_record(reply.content.array_records["arrays"])
        sizes.append(sum(array.nbytes for array in arrays.values()))
        if number == 1:
            assert arrays.keys() == device.arrays.keys()
            until(lambda: device.book.uplink)
    assert list(arrays) != list(device.arrays)
    assert sizes[1] < sizes[0] / 3
    assert 0 < device.book.uplink < 20_000
    line.close()


@pytest.mark.parametrize(
    ("options", "room"),
    [([], 2.0), (["--plan"], 3.0), (["--plan", "--set", "guard.room=1"], 1.0)],
)
def test_a_run_in_which_parts_are_trained_allows_larger_differences_of_norm(options, room):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    serving = Serving.prepare(parser.parse_args(["digits", "--local", "2", *options]))
    assert serving.plan.guard.room == room


@pytest.mark.parametrize("name", ["../../secret", "last:1/../x", "last:0"])
def test_a_part_with_another_name_is_refused(tmp_path, name):
    artefact = Artefact(exported(tmp_path, PLANNED))
    spoilt = json.loads(artefact.manifest.to_json())
    spoilt["parts"] = {name: spoilt["parts"]["last:1"]}
    moved = {step_file("last:1"): step_file(name)}
    spoilt["files"] = {moved.get(file, file): entry for file, entry in spoilt["files"].items()}
    with pytest.raises(DataError, match="names the file"):
        read_manifest(json.dumps(spoilt))


def test_a_part_that_trains_something_else_is_refused(tmp_path):
    artefact = Artefact(exported(tmp_path, PLANNED))
    files = {name: artefact.read(name) for name in artefact.manifest.files}
    spoilt = replace(artefact.manifest, parts={"last:1": artefact.manifest.parameters})
    write_artefact(tmp_path / "spoilt.fedloom", spoilt, files)
    with pytest.raises(DataError, match=r"train\.last1\.onnx trains other arrays than the manifest says"):
        check(Artefact(tmp_path / "spoilt.fedloom"))
