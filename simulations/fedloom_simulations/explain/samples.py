"""Samples of a run, explained: figures as JSON and a picture."""

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom_client.attribution import deletion, verdict
from fedloom_client.seeds import generator
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.tensors import input_tensor
from fedloom_edge.errors import InputError
from fedloom_edge.files import write_atomic
from fedloom_simulations.explain.attribution import attribute
from fedloom_simulations.explain.picture import draw_samples
from fedloom_simulations.explain.subject import Subject


def explain_samples(subject: Subject, on: str, method: str, samples: int, seed: int) -> str:
    """Explain `samples` samples of shard `on`; returns what a person should read of it.

    Raises:
        InputError: there is no such shard or no sample.
    """
    if samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    raw = subject.raw(on)
    chosen = np.sort(generator(seed, "explain").permutation(len(raw))[:samples])
    if len(chosen) == 0:
        raise InputError(f"--on {on}: that shard has no sample")
    shown = raw.take(chosen)[0]
    x, y = subject.ready(raw).take(chosen)
    model = TorchTrainer(subject.setup.plan.task).module(subject.arrays)
    inputs = input_tensor(np.ascontiguousarray(x))
    found = attribute(model, inputs, method)

    @torch.no_grad()
    def outputs(some: NDArray[Any]) -> NDArray[Any]:
        answers: NDArray[Any] = model(torch.from_numpy(some)).reshape(len(some), -1).numpy()
        return answers

    check = deletion(outputs, inputs.numpy(), found, seed)
    names = subject.facts["class_names"] if subject.setup.plan.task.metric == "accuracy" else []
    entries = [
        {
            "index": int(index),
            "target": _label(y[place], names),
            "predicted": _label(found.targets[place] if names else found.outputs[place], names),
            "output": float(found.outputs[place]),
            "attribution": found.values[place].tolist(),
        }
        for place, index in enumerate(chosen)
    ]
    words = {
        "run": subject.folder.name,
        "warning": subject.warning,
        "on": on,
        "method": method,
        "completeness_gap": found.gap,
        **check,
    }
    write_atomic(subject.folder / "explain.json", json.dumps({**words, "samples": entries}) + "\n")
    draw_samples(subject.folder / "explain.png", words, entries, shown, found.values)
    said = [subject.warning] if subject.warning else []
    return "\n".join([*said, *verdict(found, check), f"{subject.folder}: explain.json, explain.png"]) + "\n"


def _label(value: Any, names: list[str]) -> Any:
    flat = float(np.asarray(value).reshape(-1)[0])
    return names[int(flat)] if names else int(flat) if flat.is_integer() else round(flat, 4)
