"""What secure aggregation costs: rounds with and without it, 100 clients with a model of a million numbers.

    python -m fedloom_simulations.benchmarks.secure [--rounds 4] [--runs 3] [--write]

Sides in turn (plain, masked, plain, ...), each a process of its own that does all of it; wall and
processor seconds of the median round, without the first of each run. Data: `mnist` (40 images a client,
two steps: masks are most of a round) and `fashion` (600 images a client, 19 steps).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from fedloom_simulations.benchmarks.peers import Clock
from fedloom_simulations.benchmarks.written import write_section
from fedloom_simulations.options import add_arguments
from fedloom_simulations.session import run_session
from fedloom_simulations.setup import prepare_run

_TASK = """
from torch import nn
from fedloom_client import Task, Training
from fedloom_client.tasks import {data}

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 200), nn.ReLU(),
                         nn.Linear(200, 10))

training = Training(optimizer="momentum", lr=0.03, batch_size=32, epochs=1)
task = Task(name="million", model=model, data={data}.task.data, training=training)
"""
_SIDES = {
    "plain": [],
    "masked": ["--secure-aggregation"],
    "masked, 20 % drop out": ["--secure-aggregation", "--faults", "drop=0.2"],
    "masked, for 10 % dropouts": ["--secure-aggregation", "--set", "secure.dropouts=0.1"],
}


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=["mnist", "fashion"])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=_SIDES, help="one of them, in this process")
    options = parser.parse_args()
    if options.side:
        _side(options.side, options.data[0], options)
        return
    tables = [_table(data, options) for data in options.data]
    if options.write:
        write_section("bench-secure", "\n".join(tables))


def _table(data: str, options: argparse.Namespace) -> str:
    laps: dict[str, list[tuple[float, float]]] = {side: [] for side in _SIDES}
    sent: dict[str, float] = {}
    for run in range(options.runs):
        for side in _SIDES:
            command = [sys.executable, "-m", __spec__.name, "--side", side, "--data", data]
            command += [
                "--clients",
                str(options.clients),
                "--rounds",
                str(options.rounds),
                "--seed",
                str(run),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            said = json.loads(done.stdout.strip().splitlines()[-1])
            laps[side] += said["laps"][1:]
            sent[side] = said["sent"]
    walls, cpus = ({side: median(lap[k] for lap in own) for side, own in laps.items()} for k in (0, 1))
    rows = [
        f"| {side} | {walls[side]:.2f} | {walls[side] / walls['plain']:.2f} "
        f"| {cpus[side]:.2f} | {cpus[side] / cpus['plain']:.2f} | {sent[side]:.2f} |"
        for side in _SIDES
    ]
    head = f"| {data}, {options.clients} clients | s a round | ratio | processor s | ratio | MB up a client |"
    text = "\n".join([head, "|---|---|---|---|---|---|", *rows, ""])
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return text


def _side(side: str, data: str, options: argparse.Namespace) -> None:
    """Run one side in this process; prints its rounds."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        task, out = Path(folder, "million.py"), Path(folder, "run")
        task.write_text(_TASK.format(data=data))
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        given = [str(task), "--clients", str(options.clients), "--rounds", str(options.rounds)]
        given += ["--partition", "iid", "--workers", "1", "--seed", str(options.seed), "--out", str(out)]
        setup = prepare_run(parser.parse_args([*given, *_SIDES[side]]))
        if run_session(replace(setup, watchers=[clock])):
            raise SystemExit(1)
        last = json.loads((out / "result.json").read_text())["rounds"][-1]
    sent = last["bytes_up"] / last["clients_ok"] / 1e6
    sys.stdout.write("\n" + json.dumps({"laps": clock.laps, "sent": sent}) + "\n")


if __name__ == "__main__":
    main()
