"""`--backend` and `--workers`: how clients are trained, never what they learn."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import arrays_sha256, load_arrays
from fedloom_edge.cli import main
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.engine.cohort_grid import CohortGrid
from fedloom_simulations.engine.inline import FIRST_NODE

RUN = ("tabular", "--clients", 12, "--rounds", 2, "--partition", "dirichlet:0.5", "--seed", 3)


def test_the_number_of_workers_changes_nothing(simulate):
    runs = [simulate(*RUN, "--backend", "vmap", "--workers", count) for count in (1, 2, 3)]
    assert {run.code for run in runs} == {0}, runs[0].err
    assert len({run.result["arrays_sha256"] for run in runs}) == 1
    losses = [[entry["loss"] for entry in run.result["rounds"]] for run in runs]
    assert losses[0] == losses[1] == losses[2]


def test_workers_of_the_torch_backend_give_what_one_process_gives(simulate):
    hashes = {
        simulate(*RUN, "--backend", "torch", "--workers", count).result["arrays_sha256"] for count in (1, 2)
    }
    assert len(hashes) == 1


def test_backends_agree_up_to_rounding(simulate):
    torch, vmap = (simulate(*RUN, "--backend", name) for name in ("torch", "vmap"))
    assert (torch.result["backend"], vmap.result["backend"]) == ("torch", "vmap")
    first, second = (load_arrays(run.folder / "model.safetensors") for run in (torch, vmap))
    for name, array in first.items():
        assert np.allclose(array, second[name], atol=2e-3), name
    for ours, theirs in zip(vmap.result["rounds"], torch.result["rounds"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)
        assert {k: ours[k] for k in ("bytes_up", "bytes_down", "clients_ok")} == {
            k: theirs[k] for k in ("bytes_up", "bytes_down", "clients_ok")
        }
    figures = ("loss", "accuracy", "federated_loss", "federated_accuracy", "worst_accuracy")
    assert {k: vmap.result["final"][k] for k in figures} == pytest.approx(
        {k: torch.result["final"][k] for k in figures}, rel=0.05, abs=0.05
    )


OWN_CODE = "class Own(nn.Linear):\n    def forward(self, x):\n        return super().forward(x.tanh()){}\n"


def test_a_graph_of_the_step_gives_what_torch_gives_whatever_the_workers(simulate, task_file):
    body = OWN_CODE.format("")
    file = task_file(body, model="lambda: nn.Sequential(Own(4, 16), nn.BatchNorm1d(16), Own(16, 3))")
    options = ("--rounds", 3, "--clients", 5, "--partition", "quantity:1", "--strategy", "fedprox",
               "--set", "strategy.proximal_mu=0.1", "--set", "training.batch_size=8")  # fmt: skip
    torch, graph, two = (
        simulate(file, *options, "--backend", name, "--workers", workers)
        for name, workers in (("torch", 1), ("onnx", 1), ("onnx", 2))
    )
    assert [run.result["backend"] for run in (torch, graph, two)] == ["torch", "onnx", "onnx"], graph.err
    assert graph.result["arrays_sha256"] == two.result["arrays_sha256"]
    first, second = (load_arrays(run.folder / "model.safetensors") for run in (torch, graph))
    for name, array in first.items():
        assert np.allclose(array, second[name], atol=1e-4), name


@pytest.mark.parametrize(("width", "backend"), [(8, "vmap"), (400, "onnx")])
def test_auto_stacks_tiny_models_and_takes_a_graph_for_small_ones(simulate, task_file, width, backend):
    model = f"lambda: nn.Sequential(Own(4, {width}), Own({width}, {width}), Own({width}, 3))"
    run = simulate(task_file(OWN_CODE.format(""), model=model), "--rounds", 1)
    assert run.result["backend"] == backend


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (" * (2 if x.sum().item() > 0 else 1)", "looks at values"),
        (" * nn.functional.dropout(self.weight[0, :3], 0.5, self.training)", "dropout"),
        (".sort(1).values", "no gradient rule"),
    ],
    ids=["values", "dropout", "sort"],
)
def test_what_a_graph_cannot_train_as_torch_does_is_left_to_torch(simulate, task_file, code, reason):
    file = task_file(OWN_CODE.format(code), model="lambda: Own(4, 3)")
    runs = [simulate(file, "--rounds", 2, "--backend", name) for name in ("onnx", "torch")]
    assert runs[0].code == 0, runs[0].err
    assert runs[0].result["backend"] == "torch"
    assert runs[0].result["arrays_sha256"] == runs[1].result["arrays_sha256"]
    with RunStore.open(runs[0].folder) as store:
        assert reason in store.events("backend")[0]["data"]["reason"]


def test_a_step_that_fails_in_a_graph_is_told_in_torchs_words(simulate, task_file):
    file = task_file(OWN_CODE.format(" * 1e25"), model="lambda: Own(4, 3)")
    options = ("--rounds", 1, "--set", "training.lr=1e6", "--set", "training.batch_size=8")
    graph, torch = (
        simulate(file, *options, "--backend", name).err.partition("; the rounds so far")[0]
        for name in ("onnx", "torch")
    )
    assert "lower training.lr" in graph
    assert graph == torch


def test_auto_stacks_small_models_and_gives_the_same_bits_every_time(simulate):
    first, again = (simulate(*RUN) for _ in range(2))
    assert first.result["backend"] == "vmap"
    assert first.result["arrays_sha256"] == again.result["arrays_sha256"]


def test_a_run_that_goes_on_keeps_its_backend(simulate):
    options = (*RUN, "--backend", "vmap", "--set", "training.schedule=constant", "--rounds")
    short, whole = (simulate(*options, rounds) for rounds in (2, 3))
    with RunStore.reopen(short.folder) as store:
        asked = store.facts()["arguments"] | {"backend": "torch", "rounds": 3}
        store.set_facts({"arguments": asked})
    assert main(["resume", str(short.folder)]) == 0
    for figure in ("backend", "arrays_sha256", "final"):  # a stack's figures differ in the last bits
        assert short.result[figure] == whole.result[figure]


def trainings(grid, recipe, **changes):
    """A message to each of 12 clients that asks it to train."""
    task = recipe.open().task
    training = replace(task.training, **changes).to_config()
    config = ConfigRecord({**training, "seed": 1, "server-round": 4})
    described = [r.content["summary"] for r in grid.send_and_receive(questions(12))]
    constants = task.preprocess.merge(map(from_record, described))
    arrays = to_record(TorchTrainer(task).initial_arrays(1))
    content = {"arrays": arrays, "preprocess": to_record(constants), "config": config}
    return [Message(RecordDict(dict(content)), FIRST_NODE + k, MessageType.TRAIN) for k in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_in_a_worker_process_is_noted(workers):
    recipe, notes = ShardRecipe("tabular", None, "dirichlet:0.5", 12, 3), []
    note = lambda backend, reason: notes.append(reason)  # noqa: E731
    with closing(CohortGrid(recipe, 12, (), "vmap", workers, note, chosen=True)) as grid:
        assert len(list(grid.send_and_receive(trainings(grid, recipe, patience=2)))) == 12
    assert notes == ["clients train one after the other because training.patience is set"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_rest_of_a_round_after_a_crash_is_what_it_would_have_been(workers):
    recipe = ShardRecipe("tabular", None, "dirichlet:0.5", 12, 3)

    def replies(wanted):
        grid = CohortGrid(recipe, 12, (), "vmap", workers, lambda *note: None)
        messages = trainings(grid, recipe)
        with closing(grid):
            grid.expect(messages)
            sent = grid.send_and_receive([messages[client] for client in wanted])
            return {
                r.metadata.src_node_id - FIRST_NODE: arrays_sha256(from_record(r.content["arrays"]))
                for r in sent
            }

    whole = replies(range(12))
    assert len(set(whole.values())) == 12
    rest = [2, 3, 7, 11]
    assert replies(rest) == {client: whole[client] for client in rest}


def questions(count):
    return [Message(RecordDict(), FIRST_NODE + client, MessageType.QUERY) for client in range(count)]


def test_a_model_that_cannot_be_stacked_trains_one_client_after_the_other_and_says_so(simulate, task_file):
    body = (
        "from torch import nn\n"
        "class Deciding(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * (2 if x.sum().item() > 0 else 1)\n"
    )
    file = task_file(body, model="lambda: Deciding(4, 3)")
    runs = [simulate(file, "--rounds", 2, "--backend", name) for name in ("vmap", "torch")]
    assert runs[0].code == 0, runs[0].err
    assert runs[0].result["arrays_sha256"] == runs[1].result["arrays_sha256"]
    assert runs[0].result["backend"] == "torch"
    with RunStore.open(runs[0].folder) as store:
        assert "item()" in store.events("backend")[0]["data"]["reason"]


@pytest.mark.parametrize("strategy", ["fedavg", "ditto"])
@pytest.mark.parametrize("workers", [1, 2])
def test_why_clients_are_not_stacked_is_said_once_whoever_trains_them(simulate, workers, strategy):
    options = ("--backend", "vmap", "--workers", workers, "--strategy", strategy)
    done = simulate("tabular", "--clients", 6, "--rounds", 2, *options, "--set", "training.patience=2")
    assert done.code == 0, done.err
    assert done.err.count("one after the other because training.patience is set") == 1


def test_a_model_that_mixes_examples_is_not_stacked_in_padded_batches(simulate, task_file):
    body = (
        "class Mixing(nn.Linear):\n    def forward(self, x):\n        return super().forward(x - x.mean(0))\n"
    )
    file = task_file(body, model="lambda: Mixing(4, 3)")
    options = ("--partition", "quantity:2", "--set", "training.batch_size=16", "--seed", 5)
    runs = [simulate(file, *options, "--backend", name) for name in ("vmap", "torch")]
    arrays = [load_arrays(run.folder / "model.safetensors") for run in runs]
    assert np.allclose(arrays[0]["weight"], arrays[1]["weight"], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--backend", "numpy"], "vmap"),
        (["--workers", "-1"], "--workers -1"),
        (["--engine", "ray", "--backend", "vmap"], "--engine ray"),
    ],
)
def test_wrong_options_are_refused(simulate, options, expected):
    done = simulate("digits", *options)
    assert done.code == 2
    assert expected in done.err
