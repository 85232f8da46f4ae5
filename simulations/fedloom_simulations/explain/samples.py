"""Samples of a run, explained: figures as JSON and a picture."""

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom_client.seeds import generator
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.tensors import input_tensor
from fedloom_edge.errors import InputError
from fedloom_edge.files import write_atomic
from fedloom_simulations.explain.attribution import Attribution, attribute
from fedloom_simulations.explain.picture import draw_samples
from fedloom_simulations.explain.subject import Subject

_SHARE = 0.2  # of an input that the check takes away
_RANDOM = 10  # random choices it is compared with


def explain_samples(subject: Subject, on: str, method: str, count: int, seed: int) -> str:
    """Explain `count` samples of shard `on`; returns what a person should read of it.

    Raises:
        InputError: there is no such shard or no sample.
    """
    if count < 1:
        raise InputError(f"--samples {count}: give at least 1")
    raw = subject.raw(on)
    chosen = np.sort(generator(seed, "explain").permutation(len(raw))[:count])
    if len(chosen) == 0:
        raise InputError(f"--on {on}: that shard has no sample")
    shown = raw.take(chosen)[0]
    x, y = subject.ready(raw).take(chosen)
    model = TorchTrainer(subject.setup.plan.task).module(subject.arrays)
    inputs = input_tensor(np.ascontiguousarray(x))
    found = attribute(model, inputs, method)
    check = deletion(model, inputs, found, seed)
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
    words = {"run": subject.folder.name, "on": on, "method": method, "completeness_gap": found.gap, **check}
    write_atomic(subject.folder / "explain.json", json.dumps({**words, "samples": entries}) + "\n")
    draw_samples(subject.folder / "explain.png", words, entries, shown, found.values)
    return _say(subject, found, check)


def deletion(model: torch.nn.Module, x: torch.Tensor, found: Attribution, seed: int) -> dict[str, float]:
    """How far the explained output falls when its best-attributed fifth is set to zero, and a random one.

    The deletion test of Petsiuk, Das and Saenko (2018) at one point: attributions that do not fall
    further than chance say nothing.
    """
    draw = generator(seed, "deletion")
    size = int(np.prod(found.values.shape[1:]))
    taken = max(round(_SHARE * size), 1)
    best = np.argsort(-found.values.reshape(len(x), -1), axis=1)[:, :taken]
    falls = [found.outputs - _without(model, x, best, found)]
    for _ in range(_RANDOM):
        random = np.argsort(draw.random((len(x), size)), axis=1)[:, :taken]
        falls.append(found.outputs - _without(model, x, random, found))
    return {"fall_best": float(falls[0].mean()), "fall_random": float(np.mean(falls[1:]))}


def _without(
    model: torch.nn.Module, x: torch.Tensor, places: NDArray[np.int64], found: Attribution
) -> NDArray[np.float32]:
    """The explained outputs (N,) with `places` (N, K) of each input set to zero."""
    changed = x.clone()
    flat = changed.reshape(len(x), found.values[0].size, -1)
    flat[torch.arange(len(x))[:, None], torch.from_numpy(places.copy())] = 0
    with torch.no_grad():
        outputs = model(flat.reshape(x.shape)).reshape(len(x), -1)
        kept: NDArray[np.float32] = outputs.gather(1, torch.from_numpy(found.targets)[:, None])[:, 0].numpy()
    return kept


def _label(value: Any, names: list[str]) -> Any:
    flat = float(np.asarray(value).reshape(-1)[0])
    return names[int(flat)] if names else int(flat) if flat.is_integer() else round(flat, 4)


def _say(subject: Subject, found: Attribution, check: dict[str, float]) -> str:
    lines = [
        f"without the best-attributed fifth of an input its output falls by {check['fall_best']:.3f}, "
        f"without a random fifth by {check['fall_random']:.3f}"
    ]
    if check["fall_best"] <= check["fall_random"]:
        lines.append("these attributions say no more than chance: do not rely on them; try another --method")
    if found.gap is not None:
        lines.append(f"the attributions' sums miss the outputs' differences by at most {found.gap:.1%}")
    return "\n".join([*lines, f"{subject.folder}: explain.json, explain.png"]) + "\n"
