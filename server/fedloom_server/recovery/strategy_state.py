"""What a strategy must remember from round to round, as arrays: one small typed codec a strategy.

What a strategy is given anew in each round (`current_arrays` of FedOpt and q-FedAvg) is no state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedloom_client.flower.records import from_record, to_record
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.strategies.robust import Flame, GeometricMedian


@runtime_checkable
class Resumable(Protocol):
    """A strategy that brings its own codec. A protocol, because state really varies."""

    def state(self) -> Arrays:
        """What it remembers, whole and in any dtypes; numbers as 0-d arrays."""
        ...

    def restore(self, state: Arrays) -> None:
        """Take over what `state` gave."""
        ...


@dataclass(frozen=True)
class _Codec:
    state: Callable[[Any], Arrays]
    restore: Callable[[Any, Arrays], None]


def require_codec(strategy: Strategy) -> None:
    """Refuse a strategy whose state cannot be kept, so that no run begins that could not go on.

    Raises:
        InputError: there is no codec for it or for a strategy that it wraps.
    """
    if isinstance(strategy, Resumable):
        return
    if type(strategy) not in _CODECS:
        raise InputError(
            f"strategy {type(strategy).__name__} cannot be resumed after a crash: "
            "give it methods `state() -> Arrays` and `restore(Arrays)`"
        )
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        require_codec(inner)


def state_of(strategy: Strategy) -> Arrays:
    """The state of a strategy and of those that it wraps; empty where there is none."""
    if isinstance(strategy, Resumable):
        return dict(strategy.state())
    own = _CODECS[type(strategy)].state(strategy)
    inner = getattr(strategy, "strategy", None)
    nested = state_of(inner) if isinstance(inner, Strategy) else {}
    return {**own, **_prefixed("inner", nested)}


def restore_state(strategy: Strategy, state: Arrays) -> None:
    """Give a strategy, made with the same options, the state that `state_of` took."""
    if isinstance(strategy, Resumable):
        strategy.restore(state)
        return
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy):
        restore_state(inner, _part("inner", state))
    _CODECS[type(strategy)].restore(strategy, state)


def _prefixed(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    return {f"{prefix}/{name}": np.asarray(array) for name, array in arrays.items()}


def _part(prefix: str, state: Arrays) -> Arrays:
    start = f"{prefix}/"
    return {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}


def _optimizer_state(strategy: flower.FedAdam) -> Arrays:
    return {**_prefixed("m", strategy.m_t or {}), **_prefixed("v", strategy.v_t or {})}


def _restore_optimizer(strategy: flower.FedAdam, state: Arrays) -> None:
    strategy.m_t, strategy.v_t = _part("m", state) or None, _part("v", state) or None


def _momentum_state(strategy: flower.FedAvgM) -> Arrays:
    current = {} if strategy.current_arrays is None else from_record(strategy.current_arrays)
    momentum = dict(zip(map(str, range(len(current))), strategy.momentum_vector or [], strict=False))
    return {**_prefixed("current", current), **_prefixed("momentum", momentum)}


def _restore_momentum(strategy: flower.FedAvgM, state: Arrays) -> None:
    current = _part("current", state)
    strategy.current_arrays = to_record(current) if current else None
    strategy.momentum_vector = list(_part("momentum", state).values()) or None


def _private_mean_state(strategy: PrivateMean) -> Arrays:
    return {"clipping_norm": np.array(strategy.clipping_norm, np.float64)}


def _restore_private_mean(strategy: PrivateMean, state: Arrays) -> None:
    strategy.clipping_norm = float(state["clipping_norm"])


_NONE = _Codec(lambda strategy: {}, lambda strategy, state: None)
_OPTIMIZER = _Codec(_optimizer_state, _restore_optimizer)
_CODECS: Mapping[type[Strategy], _Codec] = {
    flower.FedAvg: _NONE,
    flower.FedProx: _NONE,
    flower.FedMedian: _NONE,
    flower.FedTrimmedAvg: _NONE,
    flower.Krum: _NONE,
    flower.MultiKrum: _NONE,
    flower.Bulyan: _NONE,
    flower.QFedAvg: _NONE,
    GeometricMedian: _NONE,
    Flame: _NONE,
    flower.FedAdagrad: _OPTIMIZER,
    flower.FedAdam: _OPTIMIZER,
    flower.FedYogi: _OPTIMIZER,
    flower.FedAvgM: _Codec(_momentum_state, _restore_momentum),
    PrivateMean: _Codec(_private_mean_state, _restore_private_mean),
    LocalPrivacy: _NONE,
}
