"""Algorithms on a real task: through the guard, resumable at any reply, on every grid that is here."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from fedloom_client.algorithms.registry import ALGORITHMS
from fedloom_client.flower.records import from_record
from fedloom_client.orders import Orders
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_simulations.engine import inline

from . import small_runs
from .small_runs import SmallRuns, equal


@pytest.fixture
def runs(tmp_path):
    return SmallRuns(tmp_path)


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_killed_at_any_reply_it_goes_on_to_the_same_bits(runs, strategy):
    rounds, _, clients, arrays = runs.go("whole", strategy)
    draw = np.random.default_rng(len(strategy))
    outcome = None
    while outcome is None:  # every process lives for a few replies more
        outcome = runs.go("killed", strategy, kill=int(draw.integers(3, 14)))
    assert equal(outcome[3], arrays)
    assert outcome[2] == clients
    assert [entry.train_loss for entry in outcome[0]] == [entry.train_loss for entry in rounds]


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_it_learns(runs, strategy):
    rounds, _, clients, _ = runs.go("run", strategy, rounds=8)
    assert all(entry.rejected == entry.clients_failed == 0 for entry in rounds)
    assert np.mean(list(clients.values())) > 0.6  # a third by guessing


@pytest.mark.parametrize("strategy", ["scaffold", "ditto", "fednova"])
def test_it_goes_together_with_encoded_updates(runs, strategy):
    rounds, *_ = runs.go("run", strategy, rounds=6, orders=Orders(compress="int8"))
    assert rounds[-1].federated_metric > 0.6


def test_dittos_global_model_is_fedavgs_bit_for_bit_and_its_clients_do_better(runs):
    _, _, plain, average = runs.go("fedavg", "fedavg", partition="pathological:1")
    _, _, own, ditto = runs.go("ditto", "ditto", partition="pathological:1")
    assert equal(average, ditto)
    assert np.mean(list(own.values())) > np.mean(list(plain.values()))


def test_fednova_is_fedavg_where_all_take_equally_many_steps(runs):
    *_, average = runs.go("fedavg", "fedavg", partition="iid")
    *_, nova = runs.go("nova", "fednova", partition="iid")
    for name, array in average.items():
        np.testing.assert_allclose(nova[name], array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("strategy", "local"), [("fedbn", "1."), ("fedrep", "3.")])
def test_what_is_personal_never_leaves_the_client(runs, monkeypatch, strategy, local):
    sent = []

    class Listening(inline.InlineGrid):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages):
                if reply.metadata.message_type == "train":
                    sent.append(from_record(reply.content["arrays"]))
                yield reply

    monkeypatch.setattr(small_runs, "InlineGrid", Listening)
    *_, arrays = runs.go("run", strategy)
    assert sent
    for update in sent:
        for name, array in update.items():
            if name.startswith(local):
                assert np.array_equal(array, arrays[name])
            elif name.endswith("weight"):
                assert not np.array_equal(array, arrays[name])


@pytest.mark.parametrize(
    ("strategy", "figure", "rule"),
    [("fednova", "normaliser", "steps"), ("scaffold", "steps", "steps"), ("ifca", "cluster", "cluster")],
)
def test_a_claim_that_would_magnify_an_update_is_rejected_and_named(
    runs, monkeypatch, strategy, figure, rule
):
    class Lying(GridWrapper):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in self.inner.send_and_receive(messages):
                if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 3:
                    metrics = dict(reply.content.metric_records["metrics"])
                    reply.content["metrics"] = MetricRecord({**metrics, figure: 1e12})
                yield reply

    monkeypatch.setattr(small_runs, "InlineGrid", lambda *given: Lying(inline.InlineGrid(*given)))
    rounds, events, *_ = runs.go("run", strategy, rounds=1)
    assert rounds[-1].rejected == 1
    reasons = [event["data"]["reason"] for event in events if event["kind"] == "rejected"]
    assert reasons[0].startswith(f"{rule}: ")


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (("fedrep", "--set", "strategy.head=zz"), "--set strategy.head=LAYER, one of"),
        (("fedbn",), "needs a model with batch normalisation"),
        (("ifca", "--set", "strategy.clusters=3"), "always begins with the same arrays"),
    ],
)
def test_a_model_that_an_algorithm_cannot_train_is_refused_before_the_run(
    simulate, task_file, strategy, said
):
    model = "lambda: zeroed(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))"
    body = (
        "def zeroed(model):\n"
        "    for parameter in model.parameters():\n"
        "        nn.init.zeros_(parameter)\n"
        "    return model\n"
    )
    done = simulate(task_file(body, model=model), "--rounds", 1, "--strategy", *strategy)
    assert done.code == 2
    assert said in done.err
    assert not done.folder.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "scafold"), "did you mean 'scaffold'"),
        (("--strategy", "ditto", "--set", "strategy.lamb=1"), "did you mean 'lam'"),
        (("--strategy", "scaffold"), "steps are sums of gradients"),
        (("--strategy", "dp-client-fixed:scaffold"), "goes around Flower's strategies only"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_begins(simulate, options, said):
    done = simulate("digits", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_scaffold_with_few_of_the_clients_warns(simulate):
    few = ("--set", "strategy.fraction_train=0.1", "--set", "strategy.min_train_nodes=1")
    few += ("--set", "training.optimizer=sgd")
    done = simulate("digits", "--clients", 20, "--rounds", 1, "--strategy", "scaffold", *few)
    assert done.code == 0
    assert "10% of the clients a round" in done.err
