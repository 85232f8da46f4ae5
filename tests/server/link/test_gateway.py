"""A gateway: its devices' mean goes up as one update, and counts as they would."""

import asyncio
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedloom_client.data.preprocess import Standardize
from fedloom_client.data.samples import ArraySamples
from fedloom_client.device.agent import Agent
from fedloom_client.device.identity import Identity
from fedloom_client.flower.records import from_record
from fedloom_client.node import Description
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Evaluation, Update
from fedloom_edge.cli import main
from fedloom_edge.energy import ESTIMATED, JOULES, SILENT
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.gateway.site import Site as Behind
from fedloom_server.gateway.site import SiteSettings, SiteSupply
from fedloom_server.gateway.worker import SiteWorker
from fedloom_server.guard.norms import GuardSettings
from fedloom_server.link.quorum import Quorum

from .conftest import DIGEST, AddOne, Site, model, questions, until


class Drawn(AddOne):
    """Training adds numbers that are drawn from the seed; `wrong` is done to them first."""

    def __init__(self, examples, wrong=None, rows=None):
        super().__init__(examples)
        self.wrong, self.rows = wrong, rows

    def describe(self):
        if self.rows is None:
            return Description(self.examples, 2, {})
        return Description(
            self.examples, 2, Standardize().summarise(ArraySamples(self.rows, self.rows[:, 0]))
        )

    def train(self, arrays, constants, assignment):
        self.assignments.append(assignment)
        drawn = trained(arrays, assignment.seed)
        drawn = self.wrong(drawn) if self.wrong else drawn
        return Update(drawn, self.examples, {"train-loss": 1 / self.examples, "steps": 4.0})

    def evaluate(self, arrays, constants):
        return Evaluation(1 / self.examples, {"accuracy": 2 / self.examples}, self.examples // 5)


def trained(arrays, seed):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(a + rng.normal(size=a.shape), a.dtype) for name, a in arrays.items()}


class Gateway:
    """A gateway and its own fleet, in the event loop of the site that it belongs to.

    Its coordinator is the site's, or another gateway, which it stands `behind`.
    """

    def __init__(self, top, name, *, quorum=None, devices=2, guard=None, preprocess=None, behind=None):
        self.top, self.name = top, name
        self.home = top.folder / name
        self.home.mkdir(exist_ok=True)
        if not (self.home / "fleet").exists():
            Fleet.create(self.home / "fleet", ["127.0.0.1"]).close()
            top.identity(name, behind and behind.fleet).save(self.home)
        self.fleet = Fleet(self.home / "fleet")
        settings = SiteSettings(
            home=self.home,
            task="small",
            task_digest=DIGEST,
            listen="127.0.0.1:0",
            enrol="127.0.0.1:0",
            min_devices=devices,
            quorum=quorum or Quorum(share=1.0, deadline=60),
            heartbeat=0.5,
        )
        self.site = Behind(settings, self.fleet)
        worker = SiteWorker(self.site, preprocess, guard or GuardSettings())
        hello = pb.Hello(trainer="gateway", task="small", task_digest=DIGEST)
        port = behind.site.ports[0] if behind else top.port
        address, supply = f"127.0.0.1:{port}", SiteSupply(self.site)

        async def make():
            return Agent(self.home, address, Identity.load(self.home), worker, hello, supply=supply)

        agent = asyncio.run_coroutine_threadsafe(make(), top.loop).result()
        top.agents[name] = agent, asyncio.run_coroutine_threadsafe(agent.run(), top.loop)
        until(lambda: self.site.run)

    def device(self, name, learner):
        """Start a device of this gateway."""
        identity = self.top.identity(name, self.fleet)
        self.top.agent(name, learner, port=self.site.ports[0], identity=identity)

    def close(self):
        self.site.close()


@pytest.fixture
def gateways(site):
    """Makes gateways of the site, and ends them after the site's agents."""
    made = []

    def make(name, **options):
        made.append(Gateway(site, name, **options))
        return made[-1]

    yield make
    for name in list(site.agents):
        site.stop_agent(name)
    for gateway in made:
        gateway.close()


def ask(grid, kind="train", arrays=None, **config):
    return {m.metadata.src_node_id: m for m in grid.send_and_receive(questions(grid, kind, arrays, **config))}


def two_sites(site, gateways, **options):
    """Four devices of 10, 20, 30 and 40 examples behind two gateways, asked what they have."""
    workers = [Drawn(10 * (k + 1), **options) for k in range(4)]
    for g, name in enumerate(("east", "west")):
        gateway = gateways(name)
        for d in range(2):
            gateway.device(f"{name}-{d}", workers[2 * g + d])
    site.grid.gather(2, 20)
    described = list(ask(site.grid, "query").values())
    assert not any(reply.has_error() for reply in described), [r.error for r in described if r.has_error()]
    return workers, described


def weighted(replies):
    """The mean of replies to `train`, as FedAvg takes it."""
    total = sum(reply.content["metrics"]["num-examples"] for reply in replies)
    parts = [(r.content["metrics"]["num-examples"], from_record(r.content["arrays"])) for r in replies]
    return {
        name: sum(n * arrays[name].astype(np.float64) for n, arrays in parts) / total for name in parts[0][1]
    }


def test_two_gateways_amount_to_their_four_devices(site, gateways):
    workers, described = two_sites(site, gateways)
    assert sorted(r.content["metrics"]["num-examples"] for r in described) == [30, 70]
    start = model(300_000, value=0.5)
    replies = list(ask(site.grid, arrays=start, number=3).values())
    assert sorted(r.content["metrics"]["num-examples"] for r in replies) == [30, 70]
    seeds = [worker.assignments[0].seed for worker in workers]
    assert seeds == [derive_seed(1, 3, client) for client in range(4)]
    got = weighted(replies)
    for name, array in start.items():
        flat = sum(10 * (k + 1) * trained(start, seeds[k])[name].astype(np.float64) for k in range(4)) / 100
        np.testing.assert_allclose(got[name], flat, atol=1e-6)
        assert array.shape == got[name].shape
    losses = [(r.content["metrics"]["num-examples"], r.content["metrics"]["train-loss"]) for r in replies]
    assert math.isclose(sum(n * loss for n, loss in losses) / 100, 4 / 100)


def test_a_device_and_gateways_behind_a_gateway_amount_to_a_flat_run(site, gateways):
    workers = [Drawn(10 * (k + 1)) for k in range(5)]
    outer = gateways("east")
    inner = gateways("far", behind=outer)
    for k in (1, 2):
        inner.device(f"far-{k}", workers[k])
    outer.device("alone", workers[0])
    for k in (3, 4):
        site.agent(f"open-{k}", workers[k])
    site.grid.gather(3, 20)
    assert not any(reply.has_error() for reply in ask(site.grid, "query").values())
    start = model(5000)
    replies = list(ask(site.grid, arrays=start, number=2).values())
    seeds = [worker.assignments[0].seed for worker in workers]
    assert seeds == [derive_seed(1, 2, client) for client in range(5)]
    assert sorted(r.content["metrics"]["num-examples"] for r in replies) == [40, 50, 60]
    flat = sum(10 * (k + 1) * np.float64(trained(start, seeds[k])["w"]) for k in range(5)) / 150
    np.testing.assert_allclose(weighted(replies)["w"], flat, atol=1e-6)


def test_the_next_run_begins_with_whoever_is_there_then(site, gateways):
    gateway = gateways("east", devices=1)
    gateway.device("a", Drawn(10))
    site.grid.gather(1, 20)
    ask(site.grid, "query")
    gateway.device("b", Drawn(20))
    (reply,) = ask(site.grid, number=1).values()
    assert reply.content["metrics"]["num-examples"] == 10
    until(lambda: set(gateway.site._open.connected()) == {"a", "b"})
    site.stop()
    site.start(run="second")
    site.grid.gather(1, 20)
    until(lambda: gateway.site.run == "second" and set(gateway.site._open.connected()) == {"a", "b"})
    ask(site.grid, "query")
    (reply,) = ask(site.grid, number=1).values()
    assert reply.content["metrics"]["num-examples"] == 30


def test_evaluations_are_weighted_by_the_examples_that_were_measured(site, gateways):
    two_sites(site, gateways)
    replies = list(ask(site.grid, "evaluate").values())
    figures = [r.content["metrics"] for r in replies]
    assert sum(f["num-examples"] for f in figures) == 2 + 4 + 6 + 8
    assert math.isclose(sum(f["num-examples"] * f["loss"] for f in figures) / 20, 4 * 0.2 / 20)
    assert math.isclose(sum(f["num-examples"] * f["accuracy"] for f in figures) / 20, 4 * 0.4 / 20)


class Metered(Drawn):
    """Its board tells the energy of a work; not of every device in the same way."""

    def train(self, arrays, constants, assignment):
        update = super().train(arrays, constants, assignment)
        told = {JOULES: 2.0 * self.examples, ESTIMATED: float(self.examples > 10)}
        return replace(update, metrics=update.metrics | told)


def test_a_site_takes_the_energy_of_all_its_devices(site, gateways):
    gateway = gateways("east", devices=3)
    for name, worker in {"a": Metered(10), "b": Metered(20), "c": Drawn(30)}.items():
        gateway.device(name, worker)
    site.grid.gather(1, 20)
    ask(site.grid, "query")
    (reply,) = ask(site.grid, arrays=model(), number=1).values()
    told = reply.content["metrics"]
    assert (told[JOULES], told[ESTIMATED], told[SILENT]) == (60.0, 1.0, 1.0)


def test_what_preprocessing_is_fitted_on_is_summed(site, gateways):
    gateway = gateways("east", preprocess=Standardize())
    rows = np.random.default_rng(0).normal(3, 2, (30, 4))
    gateway.device("a", Drawn(10, rows=rows[:10]))
    gateway.device("b", Drawn(20, rows=rows[10:]))
    site.grid.gather(1, 20)
    (reply,) = ask(site.grid, "query").values()
    constants = Standardize().merge([from_record(reply.content["summary"])])
    np.testing.assert_allclose(constants["mean"], rows.mean(axis=0))
    np.testing.assert_allclose(constants["deviation"], rows.std(axis=0))


def spoilt(arrays):
    return {name: np.full_like(array, np.nan) for name, array in arrays.items()}


def huge(arrays):
    return {name: array * 1e4 for name, array in arrays.items()}


@pytest.mark.parametrize(("wrong", "rule"), [(spoilt, "finite"), (huge, "norm")])
def test_the_gateway_guards_against_its_own_devices(site, gateways, wrong, rule):
    gateway = gateways("east", devices=4)
    for k in range(4):
        gateway.device(f"device-{k}", Drawn(10, wrong if k == 2 else None))
    site.grid.gather(1, 20)
    ask(site.grid, "query")
    (reply,) = ask(site.grid, arrays=model(), number=1).values()
    assert reply.content["metrics"]["num-examples"] == 30
    assert f"device-2: {rule}: " in reply.content["warnings"]["warnings"][0]
    expected = np.mean([trained(model(), derive_seed(1, 1, k))["w"] for k in (0, 1, 3)], axis=0)
    np.testing.assert_allclose(from_record(reply.content["arrays"])["w"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"compress": "int8"}, "--compress"),
        ({"compress": "auto"}, "--compress"),
        ({"algorithm": "fednova"}, "fednova"),
        ({"secure.session": "s"}, "it sees its devices' updates"),
    ],
)
def test_what_a_mean_cannot_stand_for_is_refused_in_words(site, gateways, config, said):
    gateway = gateways("east", devices=1)
    gateway.device("a", Drawn(10))
    site.grid.gather(1, 20)
    ask(site.grid, "query")
    (reply,) = ask(site.grid, **config).values()
    assert "east: gateway: " in reply.error.reason
    assert said in reply.error.reason


def test_too_few_good_updates_are_an_error_with_the_first_reason(site, gateways):
    gateway = gateways("east", devices=2, guard=GuardSettings(quorum=1.0))
    gateway.device("a", Drawn(10))
    gateway.device("b", Drawn(10, spoilt))
    site.grid.gather(1, 20)
    ask(site.grid, "query")
    (reply,) = ask(site.grid).values()
    assert "1 of 2 devices gave something usable, at least 2 must; b: finite:" in reply.error.reason


def test_a_gateway_that_nobody_waits_for_stops_waiting(tmp_path):
    top = Site(tmp_path, Quorum(share=1.0, deadline=2))
    gateway = Gateway(top, "east", devices=1)
    worker = AddOne(seconds=0)
    gateway.device("a", worker)
    try:
        top.grid.gather(1, 20)
        ask(top.grid, "query")
        worker.seconds = 4.0
        with pytest.raises(Exception, match="0 of 1 devices answered"):
            ask(top.grid)
        worker.seconds = 0
        (reply,) = ask(top.grid, number=2).values()
        assert not reply.has_error()
    finally:
        for name in list(top.agents):
            top.stop_agent(name)
        gateway.close()
        top.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "no coordinator is known; join a fleet first"),
        (("--coordinator", "127.0.0.1:1"), "holds no identity"),
        (("--min-devices", "0"), "--min-devices 0: give at least 1"),
        (("--set", "guard.norms=odd"), "unknown guard.norms 'odd'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, said):
    assert main(["gateway", "--home", str(tmp_path / "home"), *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_gateway_needs_no_torch():
    code = """
import sys
import fedloom_server.gateway.worker, fedloom_client.device.running, fedloom_client.device.starting
from fedloom_client.device.reading import load_task_light
load_task_light("digits")
heavy = [name for name in ("torch", "onnx") if getattr(sys.modules.get(name), "__file__", None)]
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
