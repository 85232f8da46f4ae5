"""Runs as MLflow runs: settings as parameters, every round's figures as metrics, files as artifacts."""

import math
import os
from collections.abc import Mapping
from typing import Any

from fedloom_edge.errors import InputError
from fedloom_server.report.explained import PICTURES
from fedloom_server.report.tensorboard import scalars
from fedloom_server.store.run_store import RunStore

EXPERIMENT = "fedloom"
_PARAMETERS = ("task", "engine", "strategy", "partition", "seed", "clients", "planned_rounds", "training")
_FILES = ("model.onnx", "model.safetensors", "result.json", "report.png", *PICTURES)
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_BATCH = 500  # metrics in one call; MLflow takes at most 1000


def export_run(store: RunStore, uri: str) -> str:
    """Write a run to the MLflow tracking server or folder at `uri`; returns MLflow's id of it.

    A run that was exported before is exported again under a new id.

    Raises:
        InputError: MLflow is not installed, or `uri` cannot be written to.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing phones home
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError as error:
        raise InputError("--mlflow needs MLflow: pip install 'fedloom[mlflow]'") from error
    facts = store.facts()
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment, run_name=store.folder.name, start_time=_milliseconds(facts))
        identity = str(run.info.run_id)
        parameters = [Param(key, value) for key, value in flat(facts).items()]
        tags = [RunTag("fedloom.folder", str(store.folder.absolute()))]
        client.log_batch(identity, params=parameters, tags=tags)
        metrics = [Metric(name, value, at, step) for name, value, at, step in _metrics(store)]
        for first in range(0, len(metrics), _BATCH):
            client.log_batch(identity, metrics=metrics[first : first + _BATCH])
        for name in _FILES:
            if (store.folder / name).is_file():
                client.log_artifact(identity, str(store.folder / name))
        client.set_terminated(identity, _STATUS.get(str(facts.get("status")), "RUNNING"))
    except (MlflowException, OSError) as error:
        raise InputError(f"--mlflow {uri}: {' '.join(str(error).split())[:300]}") from error
    return identity


def flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """The settings as MLflow's parameters: `{"training": {"lr": 0.1}}` becomes `training.lr = 0.1`."""
    values: dict[str, str] = {}
    for key in _PARAMETERS:
        value = facts.get(key)
        if isinstance(value, Mapping):
            values |= {
                f"{key}.{name}".replace("training.training.", "training."): str(v)
                for name, v in value.items()
            }
        elif value is not None:
            values[key] = str(value)
    return values


def _metrics(store: RunStore) -> list[tuple[str, float, int, int]]:
    times = {event["round"]: event["time"] for event in store.events("round")}
    started = _milliseconds(store.facts())
    return [
        (name.replace("/", "."), value, int(1000 * times.get(entry.number, started / 1000)), entry.number)
        for entry in store.rounds()
        for name, value in scalars(entry)
        if math.isfinite(value)
    ]


def _milliseconds(facts: Mapping[str, Any]) -> int:
    return int(1000 * float(facts.get("started") or 0))
