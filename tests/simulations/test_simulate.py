"""`fedloom simulate`: the main job, from the command line to the files that a run leaves."""

import numpy as np
import onnxruntime
import pytest

from fedloom_edge.arrays import arrays_sha256, load_arrays
from fedloom_server.store.run_store import RunStore

SMALL = ("digits", "--clients", 3, "--rounds", 2)


def test_a_run_leaves_everything_that_the_design_names(simulate):
    done = simulate(*SMALL, "--seed", 1)
    assert done.code == 0, done.err
    names = {path.name for path in done.folder.iterdir()}
    assert {"result.json", "run.db", "arrays", "model.safetensors", "model.onnx", "report.png"} <= names
    assert any(done.folder.rglob("events.out.tfevents*"))
    result = done.result
    assert [entry["round"] for entry in result["rounds"]] == [1, 2]
    columns = "round loss accuracy clients_ok clients_failed rejected bytes_up bytes_down seconds"
    assert list(result["rounds"][-1]) == columns.split()
    assert result["rounds"][-1]["clients_ok"] == 3
    assert result["final"]["accuracy"] > 0.3
    kind = [result[key] for key in ("task", "engine", "strategy", "status")]
    assert kind == ["digits", "inline", "fedavg", "finished"]
    assert result["arrays_sha256"] == arrays_sha256(load_arrays(done.folder / "model.safetensors"))
    assert str(done.folder) in done.out
    assert "first round done after" in done.out


def test_the_store_tells_the_same_as_the_result(simulate):
    done = simulate(*SMALL)
    with RunStore.open(done.folder) as store:
        rounds = store.rounds()
        assert [entry.number for entry in rounds] == [0, 1, 2]
        assert rounds[-1].arrays == done.result["arrays_sha256"]
        assert sum(client.examples + client.validation for client in store.clients()) == sum(
            sum(client.labels or []) for client in store.clients()
        )
        assert len(store.client_rounds("train")) == len(store.client_rounds("evaluate")) == 6
        assert all(part.gradient_norm > 0 for part in store.client_rounds("train"))
        assert [event["kind"] for event in store.events()][-1] == "finished"


def test_the_onnx_model_gives_the_test_accuracy_that_the_run_reports(simulate):
    from fedloom_client.loading import load_data, load_task

    done = simulate(*SMALL)
    test = load_data(load_task("digits"), None).test
    x, y = test.take(np.arange(len(test)))
    session = onnxruntime.InferenceSession(done.folder / "model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.mean(outputs.argmax(1) == y) == pytest.approx(done.result["final"]["accuracy"], abs=0.003)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(simulate):
    hashes = [simulate(*SMALL, "--seed", seed).result["arrays_sha256"] for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_sampling_some_clients_is_part_of_the_seed(simulate):
    runs = [
        simulate(*SMALL, "--clients", 6, "--set", "strategy.fraction_train=0.5", "--seed", 3).folder
        for _ in range(2)
    ]
    chosen = []
    for folder in runs:
        with RunStore.open(folder) as store:
            chosen.append([(part.round, part.client) for part in store.client_rounds("train")])
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 6


@pytest.mark.slow
def test_ray_gives_the_same_weights_as_inline(simulate):
    inline = simulate(*SMALL, "--seed", 1, "--backend", "torch")
    ray = simulate(*SMALL, "--seed", 1, "--engine", "ray")
    assert ray.code == 0, ray.err
    assert ray.result["arrays_sha256"] == inline.result["arrays_sha256"]
    assert ray.result["rounds"][-1]["accuracy"] == inline.result["rounds"][-1]["accuracy"]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("fedavgm", ["strategy.server_momentum=0.5"]),
        ("fedadam", ["strategy.eta=0.01"]),
        ("fedyogi", ["strategy.eta=0.01"]),
        ("fedadagrad", ["strategy.eta=0.01"]),
        ("fedprox", ["strategy.proximal_mu=0.1"]),
        ("fedmedian", []),
        ("fedtrimmedavg", ["strategy.beta=0.2"]),
        ("krum", ["strategy.num_malicious_nodes=1"]),
        ("multikrum", ["strategy.num_malicious_nodes=1", "strategy.num_nodes_to_select=3"]),
        ("bulyan", ["strategy.num_malicious_nodes=1"]),
        ("qfedavg", []),
        ("dp-server-fixed:fedavg", ["strategy.noise_multiplier=0.01", "strategy.clipping_norm=5"]),
        ("dp-server-adaptive:fedavg", ["strategy.noise_multiplier=0.01"]),
        ("dp-client-fixed:fedavg", ["strategy.noise_multiplier=0.01", "strategy.clipping_norm=5"]),
        ("dp-client-adaptive:fedavg", ["strategy.noise_multiplier=0.01"]),
    ],
)
def test_every_flower_strategy_trains(simulate, task_file, strategy, settings):
    learnable = task_file(y="x[:, :3].argmax(1)")
    sets = [word for setting in settings for word in ("--set", setting)]
    done = simulate(learnable, "--clients", 8, "--rounds", 4, "--strategy", strategy, *sets)
    assert done.code == 0, done.err
    losses = [entry["loss"] for entry in done.result["rounds"]]
    assert np.isfinite(losses).all()
    assert done.result["rounds"][-1]["clients_failed"] == done.result["rounds"][-1]["rejected"] == 0


def test_early_stopping_ends_a_run_that_no_longer_gets_better(simulate, task_file):
    noise = task_file()
    done = simulate(noise, "--rounds", 40, "--early-stop", "loss:2")
    assert done.code == 0
    assert len(done.result["rounds"]) < 40
    with RunStore.open(done.folder) as store:
        assert "rounds ago" in store.events("early-stop")[0]["data"]["reason"]


def test_training_settings_reach_the_clients(simulate, task_file):
    done = simulate(
        task_file(), "--rounds", 1, "--set", "training.epochs=3", "--set", "training.batch_size=10"
    )
    with RunStore.open(done.folder) as store:
        parts = store.client_rounds("train")
    assert [part.metrics["epochs"] for part in parts] == [3, 3, 3]
    assert [part.metrics["steps"] for part in parts] == [3 * -(-part.examples // 10) for part in parts]


def test_a_client_that_fails_is_named_and_does_not_end_the_run(simulate, task_file):
    body = (
        "from torch import nn\n"
        "class Moody(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if self.training and len(x) == 30: raise ValueError('sensor unplugged')\n"
        "        return super().forward(x)\n"
    )
    done = simulate(
        task_file(body, model="lambda: Moody(4, 3)"),
        *("--partition", "quantity:1", "--rounds", 2, "--seed", 4, "--set", "training.batch_size=30"),
    )
    failed = done.result["rounds"][0]["clients_failed"]
    assert done.code == 0, done.err
    assert 1 <= failed < 3
    with RunStore.open(done.folder) as store:
        assert "sensor unplugged" in store.events("failed")[0]["data"]["reason"]


def test_a_round_without_any_usable_update_ends_the_run_with_the_reason(simulate, task_file):
    done = simulate(task_file(extra="training=Training(lr=1e6, optimizer='sgd', weight_decay=1e5)"))
    assert done.code == 1
    assert "no usable update" in done.err
    assert done.err.count("\n") == 1
    assert done.result["status"] == "failed"


def test_show_partition_prints_the_distribution_and_trains_nothing(simulate):
    done = simulate("digits", "--clients", 4, "--partition", "dirichlet:0.3", "--show-partition")
    assert done.code == 0
    assert "dirichlet:0.3 over 4 clients" in done.out
    assert [path.name for path in done.folder.iterdir()] == ["partition.png"]


def test_a_config_file_gives_the_defaults(simulate, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('clients = 2\nrounds = 1\npartition = "dirichlet:1"\n[training]\nlr = 0.01\n')
    done = simulate("digits", "--config", file)
    assert (done.result["clients"], done.result["partition"], len(done.result["rounds"])) == (
        2,
        "dirichlet:1",
        1,
    )
