"""`--mode sync|semisync|async`: a simulated clock that is the same for the same seed, and survives a kill."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.training import Training
from fedloom_server.grids.clocked_grid import ClockedGrid, ClockSettings
from fedloom_simulations.engine import inline

from . import small_runs
from .small_runs import SmallRuns, equal

SLOW = ClockSettings(slow=0.25, factor=10.0, buffer=2)
STATISTICS = frozenset({"1.running_mean", "1.running_var"})


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """`runs(mode)` -> a `SmallRuns` whose clients take simulated time; one of the 4 is slow."""

    def of(mode, settings=SLOW):
        def grid(*given):
            return ClockedGrid(inline.InlineGrid(*given), mode, settings, 0, STATISTICS)

        monkeypatch.setattr(small_runs, "InlineGrid", grid)
        return SmallRuns(tmp_path)

    return of


def times(events):
    return [event["data"]["seconds"] for event in events if event["kind"] == "clock"]


def steps(store_rounds):
    return [entry.clients_ok for entry in store_rounds]


def test_a_synchronous_round_takes_as_long_as_its_slowest_client_and_computes_the_same(runs, tmp_path):
    rounds, events, _, arrays = runs("sync").go("sync", partition="iid")
    # 50 examples a client less validation, batches of 10, 2 epochs: equally many steps for all.
    one = times(events)[1]
    np.testing.assert_allclose(times(events), [0.0, one, 2 * one, 3 * one])
    assert steps(rounds) == [0, 4, 4, 4]
    *_, plain = runs("sync", ClockSettings()).go("plain", partition="iid")
    assert equal(arrays, plain)


def test_asynchronous_rounds_do_not_wait_for_the_slow(runs):
    _, slowly, *_ = runs("sync").go("sync", partition="iid", rounds=6)
    rounds, events, *_ = runs("async").go("async", partition="iid", rounds=6)
    assert steps(rounds)[1:] == [2] * 6
    assert all(entry.clients_failed == entry.rejected == 0 for entry in rounds)
    assert times(events) == sorted(times(events))
    assert times(events)[-1] < 0.5 * times(slowly)[-1]


def test_a_slow_client_arrives_in_the_end_and_counts_less(runs):
    settings = ClockSettings(slow=0.25, factor=3.0, buffer=1)
    rounds, events, *_ = runs("async", settings).go("async", partition="iid", rounds=12)
    assert all(entry.clients_ok == 1 for entry in rounds[1:])
    assert not [event for event in events if event["kind"] in ("failed", "rejected")]


def test_in_semi_synchronous_rounds_slow_clients_take_the_steps_that_fit(runs):
    rounds, events, *_ = runs("semisync").go("semi", partition="iid")
    _, slowly, *_ = runs("sync").go("sync", partition="iid")
    assert steps(rounds)[1:] == [4] * 3
    assert times(events)[-1] < 0.2 * times(slowly)[-1]


@pytest.mark.parametrize("mode", ["sync", "semisync", "async"])
def test_killed_at_any_reply_it_goes_on_to_the_same_bits_and_times(runs, mode):
    session = runs(mode)
    rounds, events, _, arrays = session.go("whole", rounds=5)
    _, same, _, twice = session.go("again", rounds=5)
    assert equal(arrays, twice)
    assert times(events) == times(same)
    draw = np.random.default_rng(3)
    outcome = None
    while outcome is None:
        outcome = session.go("killed", rounds=5, kill=int(draw.integers(3, 11)))
    assert equal(outcome[3], arrays)
    assert times(outcome[1]) == times(events)
    assert steps(outcome[0]) == steps(rounds)


def test_a_variance_stays_positive_however_old_updates_are(runs):
    settings = ClockSettings(slow=0.5, factor=4.0, buffer=1)
    *_, arrays = runs("async", settings).go("run", rounds=25)
    assert (arrays["1.running_var"] > 0).all()


def test_result_json_says_when_each_round_was_over(simulate, task_file):
    path = task_file()
    done = simulate(path, "--rounds", 2, "--mode", "async", "--set", "clock.buffer=3")
    seconds = [entry["simulated_seconds"] for entry in done.result["rounds"]]
    assert 0 < seconds[0] <= seconds[1]
    plain = simulate(path, "--rounds", 1)
    assert "simulated_seconds" not in plain.result["rounds"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "clock.slow=0.2"), "needs --mode"),
        (("--mode", "async", "--set", "clock.slow=2"), "slow is from 0 to 1"),
        (("--mode", "async", "--set", "clock.buffer=0"), "at least 1"),
        (("--mode", "async", "--compress", "int8"), "use semisync"),
        (("--mode", "semisync", "--set", "clock.period=inf"), "all of them finite"),
        (("--mode", "async", "--strategy", "ditto"), "use semisync"),
        (("--mode", "async", "--faults", "drop=0.1"), "--mode async: attacks"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_begins(simulate, options, said):
    done = simulate("digits", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def asynchronous_shares(settings, examples, rounds):
    """Share of each client in the model, whose training adds 1 to an element of its own."""
    app = ClientApp()
    clients = len(examples)

    @app.query()
    def facts(message, context):
        index = context.node_config["partition-id"]
        metrics = MetricRecord({"partition-id": index, "num-examples": examples[index]})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.train()
    def train(message, context):
        index = context.node_config["partition-id"]
        arrays = from_record(message.content["arrays"])["w"]
        moved = to_record({"w": arrays + np.eye(clients)[index]})
        metrics = MetricRecord({"num-examples": examples[index]})
        return Message(RecordDict({"arrays": moved, "metrics": metrics}), reply_to=message)

    grid = ClockedGrid(inline.InlineGrid(app, clients), "async", settings, 0, frozenset())
    nodes = list(grid.get_node_ids())
    list(grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes]))
    model = np.zeros(clients)
    for number in range(1, rounds + 1):
        config = ConfigRecord({ROUND: number, **Training(batch_size=1).to_config()})
        content = RecordDict({"arrays": to_record({"w": model}), "config": config})
        messages = [Message(content, node, "train") for node in nodes]
        grid.expect(messages)
        replies = list(grid.send_and_receive(messages))
        weights = [reply.content["metrics"]["num-examples"] for reply in replies]
        updates = [from_record(reply.content["arrays"])["w"] for reply in replies]
        model = np.average(updates, axis=0, weights=weights)
    return model / model.sum()


def test_in_the_long_run_every_client_counts_by_its_examples_however_slow_it_is():
    settings = ClockSettings(slow=0.25, factor=2.0, buffer=2)
    examples = [10, 10, 20, 10, 10, 20, 10, 10]
    shares = asynchronous_shares(settings, examples, 400)
    np.testing.assert_allclose(shares, np.array(examples) / 100, rtol=0.05)


def test_a_client_that_is_very_slow_counts_less_than_its_examples_and_is_not_lost():
    settings = ClockSettings(slow=0.25, factor=40.0, buffer=2)
    shares = np.sort(asynchronous_shares(settings, [10] * 8, 400))
    assert (shares[:2] > 0.01).all()
    assert (shares[:2] < 0.1).all()
    np.testing.assert_allclose(shares[2:], shares[2:].mean(), rtol=0.05)
