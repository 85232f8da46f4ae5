"""The run that is explained: its model, its data, and how it was made."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom_client.data.preprocess import prepare
from fedloom_client.data.samples import Samples
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError
from fedloom_server.recovery.resume import restored_arguments
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.options import add_arguments
from fedloom_simulations.setup import Setup, prepare_run


@dataclass(frozen=True)
class Subject:
    """A simulated run after its newest round.

    Attributes:
        folder: of the run.
        facts: of its store.
        setup: from which it was run.
        round: the newest one's number.
        arrays: of that round.
        constants: of the preprocessing.
    """

    folder: Path
    facts: dict[str, Any]
    setup: Setup
    round: int
    arrays: Arrays
    constants: Arrays

    @property
    def warning(self) -> str:
        """What a person must know of a run that is not finished; empty of one that is."""
        if self.facts["status"] == "finished":
            return ""
        model = f"after round {self.round} of {self.facts['planned_rounds']}" if self.round else "untrained"
        return f"the run is not finished ({self.facts['status']}): its model is {model}"

    def options(self, out: Path) -> argparse.Namespace:
        """The options that make the same run again in `out`."""
        return restored_arguments(add_arguments, out, self.facts["arguments"])

    def raw(self, on: str) -> Samples:
        """The held-out test set, or what a client measures on, as the data source gives it.

        Raises:
            InputError: there is no such shard.
        """
        shards = self.setup.shards
        if on == "test":
            return shards.data.test
        if not on.isdecimal() or int(on) >= len(shards):
            raise InputError(f"--on {on}: give test, or a client from 0 to {len(shards) - 1}")
        shard = shards[int(on)]
        return shard.validation if len(shard.validation) else shard.train

    def ready(self, samples: Samples) -> Samples:
        """Samples as the model takes them."""
        preprocess = self.setup.plan.task.preprocess
        return samples if preprocess is None else prepare(samples, preprocess, self.constants)


def open_subject(folder: Path) -> Subject:
    """The run in `folder`.

    Raises:
        InputError: it is no simulated run with a round in it.
    """
    with RunStore.open(folder) as store:
        facts, rounds = store.facts(), store.rounds()
        if facts.get("command") != "simulate":
            raise InputError(f"{folder}: only runs of fedloom simulate can be explained, where the data is")
        if not rounds:
            raise InputError(f"{folder} has no round yet: let it run first")
        arrays = store.get_arrays(rounds[-1].arrays)
        constants = store.get_arrays(facts["preprocess"]) if facts["preprocess"] else {}
    options = restored_arguments(add_arguments, folder, facts["arguments"])
    return Subject(folder, facts, prepare_run(options, resume=True), rounds[-1].number, arrays, constants)
