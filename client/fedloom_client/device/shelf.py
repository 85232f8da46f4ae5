"""After a round: the new global model takes the served one's place, unless it is worse on this device."""

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import Samples
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.served import FILE, Facts, Served, fits, metric_name, ready, worse
from fedloom_client.node import Node
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb

log = logging.getLogger("fedloom.device")

_MOST_SAMPLES = 1024


@dataclass(frozen=True)
class _Offer:
    number: int
    arrays: Arrays
    constants: Arrays
    validation: Samples


class Shelf:
    """Where the served model lies. The work is done beside the rounds, and never holds one up.

    Old and new are measured as they would answer, with their own preprocessing and rounding, on the
    validation part as it is now.

    Args:
        home: the device's folder.
        node: whose validation part it is.
        trainer: has the run's artefact.
    """

    def __init__(self, home: Path, node: Node, trainer: ArtefactTrainer) -> None:
        self._path = home / FILE
        self._node, self._trainer = node, trainer
        self._lock = threading.Lock()
        self._next: _Offer | None = None
        self._busy = False

    def offer(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> None:
        """Consider the arrays of a work of evaluation: the global model after its round."""
        with self._lock:
            self._next = _Offer(work.round, arrays, constants, self._node.raw.validation)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                offer, self._next = self._next, None
                if offer is None:
                    self._busy = False
                    return
            try:
                self._consider(offer)
            except FedloomError as error:
                log.warning("the model of round %d is not served: %s", offer.number, error)
            except Exception as error:  # noqa: BLE001  (a user's preprocessing may raise anything)
                name = type(error).__name__
                log.warning("the model of round %d is not served: %s: %s", offer.number, name, error)

    def _consider(self, offer: _Offer) -> None:
        samples = offer.validation
        count = min(len(samples), _MOST_SAMPLES)
        x, y = (
            samples.take(np.linspace(0, len(samples) - 1, count).astype(np.int64)) if count else (None, None)
        )
        new = self._made(offer, x, y)
        old = self._served()
        if old is not None and x is not None and y is not None and new.facts.metric is not None:
            before = self._metric(old, x, y)
            if worse(new.facts.loss, new.facts.metric, before):
                log.info(
                    "the model of round %d is not served: %s %.4f, that of round %d has %.4f",
                    offer.number,
                    metric_name(new.facts.loss),
                    new.facts.metric,
                    old.facts.round,
                    before,
                )
                return
        new.write(self._path)

    def _made(self, offer: _Offer, x: NDArray[Any] | None, y: NDArray[Any] | None) -> Served:
        """The best of the artefact's models with the offered arrays: int8 where it is as good and faster."""
        from fedloom_edge.artefact.manifest import INFER, INT8
        from fedloom_edge.artefact.serving import choose, measure

        manifest, models = self._trainer.models(offer.arrays)
        chosen = INFER
        if INT8 in models and x is not None and y is not None:
            inputs = ready(x, self._node.task.preprocess, offer.constants, manifest.input.dtype)
            chosen, _ = choose(measure(models, manifest.loss, inputs, y))
        facts = Facts(
            task=manifest.name,
            loss=manifest.loss,
            round=offer.number,
            precision="int8" if chosen == INT8 else "float",
            dtype=manifest.input.dtype,
            shape=manifest.input.shape,
            classes=manifest.classes,
            metric=None,
            samples=0,
        )
        made = Served(facts, models[chosen], offer.constants)
        if x is None or y is None:
            return made
        return replace(made, facts=replace(facts, metric=self._metric(made, x, y), samples=len(x)))

    def _metric(self, served: Served, x: NDArray[Any], y: NDArray[Any]) -> float:
        from fedloom_edge.measures import standard_metric

        return standard_metric(served.facts.loss, served.outputs(x, self._node.task.preprocess), y)

    def _served(self) -> Served | None:
        """The served model, if there is a whole one of this task."""
        try:
            served = Served.read(self._path)
        except FileNotFoundError:
            return None
        except FedloomError as error:
            log.warning("%s", error)
            return None
        return served if fits(served.facts, self._node.task) else None


def _some(samples: Samples) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Inputs and targets of samples spread over all of them; None where there are none."""
    count = min(len(samples), _MOST_SAMPLES)
    return samples.take(np.linspace(0, len(samples) - 1, count).astype(np.int64)) if count else (None, None)
