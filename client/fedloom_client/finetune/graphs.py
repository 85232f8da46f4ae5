"""An artefact's graphs, as an OnnxTrainer takes them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.artefact.check import initial_arrays
from fedloom_edge.artefact.manifest import EVALUATE, TRAIN, step_file
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.errors import TrainingError
from fedloom_edge.sessions import Evaluator
from fedloom_edge.step_settings import StepSettings
from fedloom_edge.train_step import TrainStep


class ArtefactGraphs:
    """Graphs that were built where the artefact was exported; what they fix cannot be changed here.

    Args:
        artefact: checked.
        part: of what it trains, as its manifest names it; empty for all.

    Attributes:
        last: the step that was made last; after an error it still has the last good arrays.
    """

    def __init__(self, artefact: Artefact, part: str = "") -> None:
        self._artefact, self._part = artefact, part
        self._evaluator: Evaluator | None = None
        self._steps: dict[tuple[int, str], TrainStep] = {}
        self.last: TrainStep | None = None

    @cached_property
    def statistics(self) -> frozenset[str]:
        """Arrays that a step of everything measures."""
        whole = TrainStep(self._artefact.read(TRAIN)) if self._part else self._made(0, "")
        return frozenset(whole.signature.statistics)

    @property
    def tied(self) -> Mapping[str, str]:
        """Second names of shared arrays, which the artefact has once."""
        return self._artefact.manifest.tied

    @property
    def judged(self) -> tuple[str, ...]:
        """None: an artefact's steps are as small as can be."""
        return ()

    def initial_arrays(self, seed: int) -> Arrays:
        """The artefact's arrays, whatever the seed."""
        return initial_arrays(self._artefact)

    def step(
        self,
        settings: StepSettings,
        arrays: Arrays,
        x: NDArray[Any],
        batch: int,
        frozen: frozenset[str] = frozenset(),
    ) -> TrainStep:
        """The artefact's train step, or the one of what is left without the frozen arrays.

        Raises:
            TrainingError: it was built with other settings, or never.
        """
        step = self._made(batch, self._rest_of(frozen) if frozen else self._part)
        if not step.signature.settings.serve(settings):
            raise TrainingError(
                f"the artefact was exported for {step.signature.settings}, not {settings}; change only the "
                "learning rate, batch size, epochs and steps here, and give two samples at least"
            )
        self.last = step
        return step

    def evaluator(self, x: NDArray[Any]) -> Evaluator:
        """The artefact's evaluation graph."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self._artefact.read(EVALUATE))
        return self._evaluator

    def _rest_of(self, frozen: frozenset[str]) -> str:
        """The part that is everything but these arrays."""
        manifest = self._artefact.manifest
        left = set(manifest.parameters) - frozen
        for part, names in manifest.parts.items():
            if set(names) == left:
                return part
        raise TrainingError(
            f"the artefact has no train step for {len(left)} of its {len(manifest.parameters)} arrays alone"
        )

    def _made(self, batch: int, part: str) -> TrainStep:
        if (batch, part) not in self._steps:
            self._steps[batch, part] = TrainStep(self._artefact.read(step_file(part)), batch=batch)
        return self._steps[batch, part]
