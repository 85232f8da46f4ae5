"""Algorithms by name."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from fedloom_client.algorithms.apfl import APFL
from fedloom_client.algorithms.base import Algorithm
from fedloom_client.algorithms.ditto import Ditto
from fedloom_client.algorithms.fedbn import FedBN
from fedloom_client.algorithms.feddyn import FedDyn
from fedloom_client.algorithms.fednova import FedNova
from fedloom_client.algorithms.fedprox import InexactProx
from fedloom_client.algorithms.fedrep import FedRep
from fedloom_client.algorithms.ifca import IFCA
from fedloom_client.algorithms.scaffold import Scaffold
from fedloom_edge.errors import InputError, unknown

ALGORITHMS: Mapping[str, type[Algorithm]] = {
    "apfl": APFL,
    "ditto": Ditto,
    "fedbn": FedBN,
    "feddyn": FedDyn,
    "fednova": FedNova,
    "fedprox-inexact": InexactProx,
    "fedrep": FedRep,
    "ifca": IFCA,
    "scaffold": Scaffold,
}


def name_of(algorithm: Algorithm) -> str:
    """The name of an algorithm."""
    return next(name for name, kind in ALGORITHMS.items() if kind is type(algorithm))


def make_algorithm(name: str, options: Mapping[str, Any]) -> Algorithm:
    """The algorithm of that name with its options, which may come from a peer.

    Raises:
        InputError: it or an option is unknown, or a value is of the wrong kind or out of its range.
    """
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    kind = ALGORITHMS[name]
    known = _options(name)
    for key, value in options.items():
        if key not in known:
            raise unknown(f"option of {name}", key, known)
        # A whole number may stand for a float, and on the wire a truth value is one.
        if not isinstance(value, known[key]) and not (isinstance(value, int) and known[key] is not str):
            raise InputError(f"option {key} of {name} is {value!r}, of the wrong kind")
    return kind(**{key: known[key](value) for key, value in options.items()})


@cache
def _options(name: str) -> dict[str, type]:
    kind = ALGORITHMS[name]
    kinds = get_type_hints(kind)
    return {field.name: kinds[field.name] for field in fields(kind)}
