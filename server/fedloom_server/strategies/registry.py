"""Flower's strategies by name, with their own options as text."""

import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvgM, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt

from fedloom_client.algorithms.registry import ALGORITHMS, make_algorithm
from fedloom_edge.config import convert
from fedloom_edge.errors import InputError, unknown
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.private_mean import AdaptiveClipping, FixedClipping, PrivateMean
from fedloom_server.strategies.composed import Composed
from fedloom_server.strategies.robust import CentredClipping, Flame, GeometricMedian
from fedloom_server.strategies.updates import uses_only_mean

T = TypeVar("T")

# Flower tells every step of a round at INFO; the table of rounds tells it better.
logging.getLogger("flwr").setLevel(logging.WARNING)

# A name may be a wrapper around another: `dp-server-fixed:fedadam`. Each with its options.
WRAPPERS: Mapping[str, type[FixedClipping | AdaptiveClipping]] = {
    "dp-server-fixed": FixedClipping,
    "dp-server-adaptive": AdaptiveClipping,
    "dp-client-fixed": FixedClipping,
    "dp-client-adaptive": AdaptiveClipping,
    "dp-local": FixedClipping,
}
# Ours, under the names of the field.
OWN: Mapping[str, type[Strategy]] = {
    "rfa": GeometricMedian,
    "centredclipping": CentredClipping,
    "flame": Flame,
}
TREES = ("fedxgbbagging", "fedxgbcyclic")
_OURS = ("weighted_by_key", "arrayrecord_key", "configrecord_key", "train_loss_key")


def names() -> list[str]:
    """Every strategy that `--strategy` takes."""
    return sorted([*_plain(), *ALGORITHMS, *(f"{wrapper}:fedavg" for wrapper in WRAPPERS)])


def make_strategy(
    name: str, options: Mapping[str, str], *, clients: int, lr: float, optimizer: str = "sgd"
) -> Strategy:
    """The strategy `name` (`fedavg`, `dp-server-fixed:fedadam`, ...) with options given as text.

    Args:
        name: a strategy of Flower in lower case, behind a wrapper and a colon if one is wanted.
        options: `--set strategy.KEY=VALUE`, the constructor's own keywords.
        clients: nodes in the federation; defaults that ask for more nodes are lowered to it.
        optimizer: the clients', which some algorithms restrict.
        lr: the clients' learning rate, which q-FedAvg needs (Li et al., 2020, algorithm 2).

    Raises:
        InputError: the name or an option is unknown, or a value is of the wrong kind.
    """
    wrapper, _, base_name = name.lower().rpartition(":")
    if base_name in WRAPPERS:
        wrapper, base_name = base_name, "fedavg"
    if wrapper and wrapper not in WRAPPERS:
        raise unknown("strategy wrapper", wrapper, WRAPPERS)
    if wrapper and not base_name:
        raise InputError(f"strategy {name}: there is nothing after the colon; write {wrapper}:fedavg")
    if base_name == "fedbuff":
        raise InputError("strategy fedbuff is --strategy fedavg with --mode async")
    if base_name in TREES:
        raise InputError(
            f"strategy {base_name} merges XGBoost trees, but a task trains a torch model; use another"
        )
    if base_name in ALGORITHMS:
        if wrapper:
            raise InputError(f"strategy {name}: a wrapper goes around Flower's strategies only")
        return _compose(base_name, options, clients, optimizer)
    if base_name not in _plain():
        raise unknown("strategy", base_name, [*_plain(), *ALGORITHMS, *WRAPPERS])
    base = _plain()[base_name]
    known = {**_options(base), **(_options(WRAPPERS[wrapper]) if wrapper else {})}
    for key in options:
        if key not in known:
            raise unknown(f"option of strategy {name}", key, known)
    values = {key: convert(f"strategy.{key}", text, known[key].annotation) for key, text in options.items()}
    _check(values, clients)
    if not wrapper:
        return _build(base_name, base, {**_defaults(base, clients, lr), **values})
    return _wrap(wrapper, base_name, {**_defaults(base, clients, lr), **values}, clients)


def default_options(name: str) -> dict[str, Any]:
    """The options of strategy `name` that have a default, with it."""
    wrapper, _, base = name.lower().rpartition(":")
    if base in WRAPPERS:
        wrapper, base = base, "fedavg"
    if base in ALGORITHMS:
        known = {**_options(Composed), **_options(ALGORITHMS[base])}
    else:
        known = {**_options(_plain()[base]), **(_options(WRAPPERS[wrapper]) if wrapper else {})}
    return {key: option.default for key, option in known.items() if option.default is not option.empty}


def is_server_optimizer(strategy: Strategy) -> bool:
    """Whether the strategy takes an optimiser's step on the mean update (Reddi et al., 2021), or the like."""
    if isinstance(strategy, PrivateMean):
        return False  # measured arrays get their noise too, and a mean of their own, in there
    inner: Any = getattr(strategy, "strategy", strategy)
    if isinstance(inner, Composed):
        return not inner.algorithm.sees_statistics
    return isinstance(inner, FedOpt | FedAvgM)


def nodes_needed(strategy: Strategy) -> int:
    """Nodes below which a strategy, or one that it wraps, would wait for more without end."""
    inner = getattr(strategy, "strategy", None)
    own = [int(getattr(strategy, name, 1)) for name in ("min_available_nodes", "min_train_nodes")]
    return max(1, *own, nodes_needed(inner) if isinstance(inner, Strategy) else 1)


def _wrap(wrapper: str, base_name: str, values: Mapping[str, Any], clients: int) -> Strategy:
    """A strategy within one that keeps clients private."""
    base = _plain()[base_name]
    clipping: Any = _build(wrapper, WRAPPERS[wrapper], values)
    if wrapper == "dp-local":
        return LocalPrivacy(_build(base_name, base, values), clipping)
    # Who takes part is drawn by the wrapper, from all.
    inner = _build(base_name, base, {**values, "fraction_train": 1.0})
    if not uses_only_mean(inner):
        raise InputError(
            f"strategy {wrapper}:{base_name}: the noise is for a mean of clipped updates, and "
            f"{base_name} looks at each; use fedavg, fedprox, fedavgm, fedadam, fedyogi or fedadagrad"
        )
    where = "client" if wrapper.startswith("dp-client") else "server"
    rate = values.get("fraction_train", 1.0)
    options = {"strategy": inner, "clipping": clipping, "clients": clients, "rate": rate, "where": where}
    return _build(wrapper, PrivateMean, options)


def _compose(name: str, options: Mapping[str, str], clients: int, optimizer: str) -> Strategy:
    """An algorithm of ours, with its own options and FedAvg's."""
    shared = _options(Composed)
    kinds = {**get_type_hints(ALGORITHMS[name]), **{key: p.annotation for key, p in shared.items()}}
    own = [field.name for field in fields(ALGORITHMS[name])]
    for key in options:
        if key not in (*own, *shared):
            raise unknown(f"option of strategy {name}", key, [*own, *shared])
    values = {key: convert(f"strategy.{key}", text, kinds[key]) for key, text in options.items()}
    _check(values, clients)
    algorithm = make_algorithm(name, {key: value for key, value in values.items() if key in own})
    taken = {key: value for key, value in values.items() if key in shared}
    if algorithm.optimizers and optimizer not in algorithm.optimizers:
        raise InputError(
            f"strategy {name} needs clients whose steps are sums of gradients: "
            f"--set training.optimizer={' or '.join(algorithm.optimizers)}, not {optimizer}"
        )
    return _build(
        name,
        Composed,
        {**_defaults(Composed, clients, 0.0), **taken, "algorithm": algorithm, "clients": clients},
    )


def _plain() -> dict[str, type[Strategy]]:
    exported = (getattr(flower, name) for name in flower.__all__)
    return {**OWN} | {
        kind.__name__.lower(): kind
        for kind in exported
        if isinstance(kind, type) and issubclass(kind, Strategy) and not inspect.isabstract(kind)
        if not kind.__name__.startswith("DifferentialPrivacy")
    }


def _options(kind: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind, eval_str=True).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in (*_OURS, "strategy", "algorithm", "clients") and not name.endswith("_aggr_fn")
    }


def _defaults(kind: type[Strategy], clients: int, lr: float) -> dict[str, Any]:
    """Ours where Flower's would wait for nodes that a small federation never has."""
    parameters = inspect.signature(kind).parameters
    values: dict[str, Any] = {
        name: min(parameters[name].default, clients)
        for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
        if name in parameters
    }
    if "client_learning_rate" in parameters:
        values |= {"client_learning_rate": lr, "train_loss_key": "train-loss"}
    return values


def _check(values: Mapping[str, Any], clients: int) -> None:
    """Refuse what Flower takes, and then waits without end or raises in a round.

    Raises:
        InputError: a value is such.
    """
    for key, value in values.items():
        wanted = ""
        if key.startswith("fraction_") and not 0 <= value <= 1:
            wanted = "a share of the clients, from 0 to 1"
        elif key == "fraction_train" and value == 0:
            wanted = "above 0, or nobody trains"
        elif key.startswith("min_") and key.endswith("_nodes") and not 1 <= value <= clients:
            wanted = f"from 1 to {clients}, the clients that there are"
        elif isinstance(value, float) and not math.isfinite(value):
            wanted = "finite"
        elif key == "proximal_mu" and value < 0:
            wanted = "at least 0"
        if wanted:
            raise InputError(f"strategy.{key}={value:g}: it must be {wanted}")


def _build(name: str, kind: type[T], values: Mapping[str, Any]) -> T:
    accepted = inspect.signature(kind).parameters
    missing = [
        key
        for key, parameter in accepted.items()
        if parameter.default is inspect.Parameter.empty and key not in values
    ]
    if missing:
        wanted = ", ".join(f"--set strategy.{key}=VALUE" for key in missing)
        raise InputError(f"strategy {name} needs {wanted}")
    try:
        return kind(**{key: value for key, value in values.items() if key in accepted})
    except (ValueError, TypeError) as error:
        raise InputError(f"strategy {name}: {error}; mend it with --set strategy.KEY=VALUE") from error
