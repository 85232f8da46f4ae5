"""Strategies under attack: test accuracy on `mnist`, 20 clients, Dirichlet(0.5), a fifth of them attackers.

`python -m fedloom_simulations.benchmarks.robustness` prints the table of docs/robustness.md: a row a
strategy, a column an attack of the kit. `backdoor` has two figures: the accuracy, and the share of test
images of other classes that are taken for class 0 once they bear the patch.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from fedloom_client.loading import load_data, load_task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import load_arrays
from fedloom_edge.cli import main as fedloom
from fedloom_simulations.adversity.attacks import STRENGTHS
from fedloom_simulations.adversity.poison import brightest, stamped

SHARE = 0.2
OPTIONS = ("mnist", "--clients", "20", "--partition", "dirichlet:0.5", "--rounds", "15", "--workers", "1")
ATTACKERS = "4"
STRATEGIES: Mapping[str, Sequence[str]] = {
    "fedavg, no guard": ("fedavg", "guard.norms=accept"),
    "fedavg": ("fedavg",),
    "fedmedian": ("fedmedian",),
    "fedtrimmedavg": ("fedtrimmedavg",),
    "krum": ("krum", f"strategy.num_malicious_nodes={ATTACKERS}"),
    "multikrum": (
        "multikrum",
        f"strategy.num_malicious_nodes={ATTACKERS}",
        "strategy.num_nodes_to_select=10",
    ),
    "bulyan": ("bulyan", f"strategy.num_malicious_nodes={ATTACKERS}"),
    "rfa": ("rfa",),
    "centredclipping": ("centredclipping",),
    "flame": ("flame",),
}
"""Strategy, then `--set` options. Those that want to know the number of attackers are told it."""
_CORES = 2


def outcome(strategy: str, attack: str, seed: int) -> tuple[float, float | None]:
    """Test accuracy after a run, and of a backdoor its success; attack `none` is a run without one."""
    name, *settings = STRATEGIES[strategy]
    options = [*OPTIONS, "--seed", str(seed), "--strategy", name]
    options += [word for setting in settings for word in ("--set", setting)]
    if attack != "none":
        options += ["--attack", f"{attack}:{SHARE}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            code = fedloom(["simulate", *options, "--out", str(out)])
        if not (out / "model.safetensors").exists():
            raise RuntimeError(f"{strategy} under {attack} ended with {code}: {said.getvalue()}")
        accuracy = float(json.loads((out / "result.json").read_text())["final"]["accuracy"])
        return accuracy, _backdoor(out / "model.safetensors") if attack == "backdoor" else None


def _backdoor(path: Path) -> float:
    """Share of stamped test images of classes 1 to 9 that the model takes for class 0."""
    task = load_task(OPTIONS[0])
    test = load_data(task, None).test
    x, y = test.take(np.arange(len(test)))
    outputs = TorchTrainer(task).outputs(load_arrays(path), stamped(x[y != 0], high=brightest(test)))
    return float((np.asarray(outputs).argmax(1) == 0).mean())


def _cell(job: tuple[str, str, int]) -> tuple[float, float | None]:
    result = outcome(*job)
    sys.stderr.write(f"{job[0]} under {job[1]}, seed {job[2]}: {result}\n")
    return result


def table(seeds: Sequence[int], strategies: Sequence[str]) -> str:
    """The table in Markdown, means over `seeds`."""
    attacks = ("none", *STRENGTHS)
    jobs = [(strategy, attack, seed) for strategy in strategies for attack in attacks for seed in seeds]
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(_CORES, mp_context=context) as pool:
        results = dict(zip(jobs, pool.map(_cell, jobs), strict=True))
    lines = [f"| | {' | '.join(attacks)} |", "|---" * (len(attacks) + 1) + "|"]
    for strategy in strategies:
        cells = []
        for attack in attacks:
            found = [results[strategy, attack, seed] for seed in seeds]
            cells.append(f"{100 * np.mean([accuracy for accuracy, _ in found]):.1f}")
            if attack == "backdoor":
                cells[-1] += (
                    f" / {100 * np.mean([success for _, success in found if success is not None]):.0f}"
                )
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES), help="rows of the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    sys.stdout.write(table(arguments.seeds, arguments.strategies))


if __name__ == "__main__":
    main()
