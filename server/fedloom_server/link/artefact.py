"""The artefact of a served run: what devices without torch train with, exported once when the run begins."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from flwr.serverapp.strategy import Strategy

from fedloom_client.algorithms.base import Algorithm
from fedloom_client.data.samples import Data
from fedloom_client.onnx_trainer.graphs import tied_names
from fedloom_client.onnx_trainer.trainer import step_settings
from fedloom_client.seeds import derive_seed
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Terms
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.artefact.manifest import ARRAYS, INFER, INT8, Manifest, Tensor
from fedloom_edge.artefact.storage import SUFFIX, write_artefact
from fedloom_edge.errors import FedloomError, InputError
from fedloom_server.edge_export import Source, int8_of, packed, parity, ready_samples
from fedloom_server.report.results import versions
from fedloom_server.rounds.plan import Plan

_PARITY_SAMPLES = 64


def run_artefact(plan: Plan, strategy: Strategy, data: Data, out: Path) -> tuple[Path | None, str]:
    """The artefact in a run's folder, made if it is not there.

    Args:
        plan: of the run.
        strategy: which terms it adds to a gradient is fixed in the train step.
        data: the coordinator's own, which says what the model's inputs look like.
        out: the run's folder.

    Returns:
        Its path, or None and why the model cannot be trained without torch.
    """
    path = out / f"artefact{SUFFIX}"
    if path.exists():
        return path, ""
    try:
        _write(plan, strategy, data, path)
    except FedloomError as error:
        return None, str(error)
    return path, ""


def _terms(strategy: Strategy, arrays: Arrays, statistics: frozenset[str]) -> Terms:
    """What clients of a strategy train with beside the gradient of their loss."""
    if (algorithm := _algorithm(strategy)) is not None:
        return algorithm.terms(arrays, statistics)
    return Terms(proximal=getattr(_inner(strategy), "proximal_mu", 0) > 0)


def _algorithm(strategy: Strategy) -> Algorithm | None:
    return getattr(_inner(strategy), "algorithm", None)


def _inner(strategy: Strategy) -> Strategy:
    inner: Strategy = getattr(strategy, "strategy", strategy)
    return inner


def _write(plan: Plan, strategy: Strategy, data: Data, path: Path) -> None:
    from fedloom_edge.artefact.build import build_graphs, embed
    from fedloom_edge.export import training_graph

    task, training, trainer = plan.task, plan.training, TorchTrainer(plan.task)
    arrays = trainer.initial_arrays(derive_seed(plan.seed, "initial"))
    fit = task.preprocess
    constants = {} if fit is None else fit.merge([fit.summarise(data.train)])
    source = Source(task, data, arrays, constants, {})
    x, _ = ready_samples(source, data.test, _PARITY_SAMPLES, plan.seed)
    module = trainer.module(arrays)
    model = training_graph(module, x[:1])
    embed(model, arrays)
    alone = training.batch_size == 1
    terms = _terms(strategy, arrays, trainer.statistics)
    settings = step_settings(task.loss, training, terms, alone=alone)
    # What an algorithm keeps of a client is of a training of all arrays.
    parts = plan.orders.plan and _algorithm(strategy) is None
    graphs = build_graphs(model, settings, "all", training.batch_size, parts=parts, held=terms.frozen)
    expected = trainer.outputs(arrays, x)
    parity(graphs.files[INFER], x, expected)
    manifest = Manifest(
        name=task.name,
        loss=task.loss,
        input=Tensor("input", str(x.dtype), x.shape[1:]),
        output=Tensor("output", "float32", expected.shape[1:]),
        classes=data.class_names,
        # Constants of preprocessing come with every work; what is known here are the coordinator's own.
        preprocess={"kind": "none"},
        kind=graphs.kind,
        trainable="all",
        parameters=graphs.parameters,
        parts=graphs.parts,
        tied=tied_names(module),
        training=asdict(training),
        serve=INFER,
        versions=versions(),
        provenance={"task": task.name, "seed": plan.seed, "arrays_sha256": arrays_sha256(arrays)},
    )
    files = dict(graphs.files)
    if graphs.kind == "head":  # the backbone stays, so its int8 form holds for every round
        with suppress(InputError):
            files[INT8] = int8_of(source, graphs, plan.seed)
    kept = {name: array for name, array in arrays.items() if name in graphs.arrays}
    write_artefact(path, manifest, {**files, ARRAYS: packed(kept)})
