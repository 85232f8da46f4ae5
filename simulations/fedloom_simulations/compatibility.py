"""Which options go together: asked of the program itself, pair by pair.

    python -m fedloom_simulations.compatibility

writes docs/compatibility.md. A cell says what `fedloom simulate` (or `serve`, for devices) says to that
pair of options before round 1. No combination of more than two is refused unless a pair in it is.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path

from fedloom_client.algorithms.registry import ALGORITHMS
from fedloom_edge.errors import InputError
from fedloom_server.link import serve
from fedloom_server.strategies.registry import WRAPPERS
from fedloom_simulations.options import add_arguments

DOCUMENT = Path("docs/compatibility.md")
NOTHING = "none"
_FIXED_NOISE = ("--set", "strategy.noise_multiplier=0.1", "--set", "strategy.clipping_norm=1")
_ADAPTIVE_NOISE = ("--set", "strategy.noise_multiplier=0.1")

Table = Mapping[str, Mapping[str, tuple[str, ...]]]
# Dimension -> option -> its flags. The first of each is what a run has if nothing is asked for.
SIMULATE: Table = {
    "strategy": {
        name: ("--strategy", name)
        for name in ("fedavg", "fedprox", "fedadam", "krum", "fedmedian", "rfa", *ALGORITHMS)
    },
    "privacy": {
        NOTHING: (),
        **{name: _ADAPTIVE_NOISE if name.endswith("adaptive") else _FIXED_NOISE for name in WRAPPERS},
    },
    "samples": {NOTHING: (), "dp-sgd": ("--set", "training.dp_noise=1", "--set", "training.dp_clip=1")},
    "compression": {
        NOTHING: (),
        **{name: ("--compress", name) for name in ("float16", "int8", "topk:0.1", "lowrank:2")},
    },
    "summation": {"plain": (), "secure": ("--secure-aggregation",)},
    "mode": {
        NOTHING: (),
        **{name: ("--mode", name) for name in ("sync", "semisync")},
        "async": ("--mode", "async", "--set", "clock.buffer=2"),
    },
    "engine": {
        "inline": (),
        "torch": ("--backend", "torch"),
        "vmap": ("--backend", "vmap"),
        "onnx": ("--backend", "onnx"),
        "workers": ("--workers", "2"),
        "ray": ("--engine", "ray"),
    },
    "trouble": {
        NOTHING: (),
        "labelflip": ("--attack", "labelflip:0.3"),
        "signflip": ("--attack", "signflip:0.3"),
        "drop": ("--faults", "drop=0.2"),
        "nan": ("--faults", "nan=0.2"),
    },
}
DEVICES: Table = {
    "strategy": SIMULATE["strategy"],
    "privacy": SIMULATE["privacy"],
    "samples": SIMULATE["samples"],
    "compression": {**SIMULATE["compression"], "auto": ("--compress", "auto")},
    "summation": SIMULATE["summation"],
    "planning": {NOTHING: (), "plan": ("--plan",)},
    "trainer": {name: ("--trainer", name) for name in ("torch", "onnx")},
}
Cell = Mapping[str, str]
"""Dimension -> option; a dimension that is left out has its first option."""


def flags(table: Table, cell: Cell) -> list[str]:
    """A cell's flags: an optimiser that every algorithm takes, and privacy as a wrapper of the strategy."""
    given = ["--set", "training.optimizer=momentum"]
    for dimension, options in table.items():
        given += options[cell.get(dimension, next(iter(options)))]
    wrapper = cell.get("privacy", NOTHING)
    if wrapper != NOTHING:
        where = given.index("--strategy") + 1
        given[where] = f"{wrapper}:{given[where]}"
    return given


def refusal(table: Table, cell: Cell) -> str:
    """What a run with these options is refused with before round 1; empty if it is not.

    Args:
        table: SIMULATE or DEVICES.
        cell: the options.
    """
    normalised = cell.get("strategy") == "fedbn"  # for which there must be batch norm
    run = ["digits" if normalised else "tabular", *flags(table, cell)]
    try:
        if table is DEVICES:
            _prepare_devices(run)
        else:
            _prepare_simulation(run)
    except InputError as error:
        return str(error)
    return ""


def pairs(table: Table) -> Iterator[dict[str, str]]:
    """Every pair of options of different dimensions, as a cell."""
    for first, second in combinations(table, 2):
        for one, other in product(table[first], table[second]):
            yield {first: one, second: other}


def covering(table: Table, refused: list[dict[str, str]]) -> list[dict[str, str]]:
    """Whole cells, none with a refused pair, which together have every pair that is not refused.

    Greedy: each cell begins with a pair that is still open and takes, dimension by dimension, the option
    that closes most. In the tables above what goes together pair by pair can always be completed.
    """
    bad = {frozenset(cell.items()) for cell in refused}
    left = {frozenset(cell.items()) for cell in pairs(table)} - bad
    cells = []
    while left:
        cell = dict(min(left, key=sorted))
        for dimension, options in table.items():
            if dimension in cell:
                continue
            taken = list(cell.items())
            fit = [
                option
                for option in options
                if not any(frozenset({(dimension, option), other}) in bad for other in taken)
            ]
            cell[dimension] = max(
                fit, key=lambda o: sum(frozenset({(dimension, o), other}) in left for other in taken)
            )
        left -= {frozenset(pair) for pair in combinations(cell.items(), 2)}
        cells.append({dimension: cell[dimension] for dimension in table})
    return cells


def render() -> str:
    """docs/compatibility.md."""
    head = (
        "# What goes together\n\n"
        "Written by `python -m fedloom_simulations.compatibility`, which asks the program; a test holds it. "
        "`+`: works; for simulations every such pair is run in the tests, but those on Ray. A number: "
        "refused before round 1, by that sentence. What is not refused pair by pair works all together.\n"
    )
    sentences: dict[str, int] = {}
    parts = [head]
    for title, table in (("Simulations", SIMULATE), ("Devices (`fedloom serve`)", DEVICES)):
        parts.append(f"## {title}\n")
        parts += [_grid(table, *names, sentences) for names in combinations(table, 2)]
    parts.append("## Refusals\n")
    parts.append("\n".join(f"{number}. {sentence}" for sentence, number in sentences.items()) + "\n")
    return "\n".join(parts)


def _grid(table: Table, first: str, second: str, sentences: dict[str, int]) -> str:
    columns = list(table[second])
    lines = [f"| {first} \\ {second} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for one in table[first]:
        marks = [_mark(table, {first: one, second: other}, sentences) for other in columns]
        lines.append(f"| {one} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def _mark(table: Table, cell: Cell, sentences: dict[str, int]) -> str:
    text = refusal(table, cell)
    if not text:
        return "+"
    for option in cell.values():  # one sentence for all options that are refused alike
        text = text.replace(f" {option}", " NAME").replace(f":{option}", ":NAME")
    return str(sentences.setdefault(text, len(sentences) + 1))


def _prepare_simulation(argv: list[str]) -> None:
    from fedloom_simulations.setup import prepare_run

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    prepare_run(parser.parse_args(argv))


def _prepare_devices(argv: list[str]) -> None:
    from fedloom_server.link.serving import Serving

    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    Serving.prepare(parser.parse_args([*argv, "--local", "3"]))


if __name__ == "__main__":
    DOCUMENT.write_text(render())
    sys.stdout.write(f"{DOCUMENT} is written\n")
