"""From a trained update to what a client sends of it: a vector that says nothing by itself."""

from collections.abc import Mapping
from typing import Any

from fedloom_client.secure.participant import SESSION, Participant, SecureError
from fedloom_client.secure.ring import Ring
from fedloom_client.seeds import derive_seed
from fedloom_client.trainer import Update
from fedloom_edge.arrays import Arrays

CLIP, HEAVIEST, CLIENTS = "secure.clip", "secure.heaviest", "secure.clients"
"""Keys of a message's settings: see `Ring`."""
LOSS = "train-loss"


def asks_for_secrecy(settings: Mapping[str, Any]) -> bool:
    """Whether a work's update must be masked."""
    return SESSION in settings


def conceal(
    participant: Participant,
    settings: Mapping[str, Any],
    origin: Arrays,
    update: Update,
    statistics: frozenset[str],
    seed: int,
) -> Update:
    """The masked update: its number of examples and its figures are in the sum, and nowhere else.

    `seed` is the assignment's: equal work gives equal numbers under the masks, so that a round that is
    begun anew comes to the same sum.

    Raises:
        SecureError: a setting is missing, or it is not the time for it.
        TrainingError: the update is not finite.
    """
    clip, heaviest, clients = (settings.get(name) for name in (CLIP, HEAVIEST, CLIENTS))
    if not (isinstance(clip, int | float) and isinstance(heaviest, int) and isinstance(clients, int)):
        raise SecureError("secure: the settings of the sum are missing")
    ring = Ring(origin=origin, statistics=statistics, clip=clip, heaviest=heaviest, clients=clients)
    loss = float(update.metrics[LOSS])
    vector = ring.encode(update.arrays, update.examples, loss, derive_seed(seed, "secure"))
    return Update(participant.mask(settings, vector), 0, {})
