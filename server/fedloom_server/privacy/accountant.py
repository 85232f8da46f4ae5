"""Epsilon of composed, Poisson-sampled Gaussian mechanisms, by Google's `dp-accounting`.

Privacy loss distributions (Koskela et al., 2020; Doroshenko et al., 2022, "Connect the dots") give epsilon
nearly exactly and never too small. Neighbours differ in one unit that is there or not (add or remove).
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from fedloom_edge.errors import InputError

Composition = tuple[tuple[float, float, int], ...]
"""(noise multiplier, sampling rate, how often), sorted; the noise's deviation over the sensitivity."""

INSTALL = "privacy is accounted for with dp-accounting: pip install 'fedloom[privacy]'"
_STEP = 1e-3  # between two privacy losses that are told apart
_MEANINGLESS = 100.0  # an epsilon from which a bound is as good as a figure
_ORDERS = np.array([2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256])


def require_accountant() -> None:
    """Say what to install, before a run begins.

    Raises:
        InputError: dp-accounting is not there.
    """
    try:
        import dp_accounting.pld  # noqa: F401
    except ImportError as error:
        raise InputError(INSTALL) from error


@lru_cache(maxsize=4096)
def epsilon(parts: Composition, delta: float) -> float:
    """The epsilon of all parts together at `delta`; 0 for none, infinite where one has no noise.

    Beyond 100 it is the bound of `renyi_bound`, which may be some percent higher.
    """
    released = [(noise, rate, count) for noise, rate, count in parts if count and rate > 0]
    if not released:
        return 0.0
    if any(noise <= 0 for noise, *_ in released):
        return math.inf
    if (bound := renyi_bound(parts, delta)) > _MEANINGLESS:
        return bound
    total: Any = None
    for noise, rate, count in released:
        part = _loss(noise, rate).self_compose(count)
        total = part if total is None else total.compose(part)
    return float(max(total.get_epsilon_for_delta(delta), 0.0))


def largest(compositions: Iterable[Composition], delta: float) -> float:
    """The largest epsilon among many compositions, of which as few as possible are computed exactly."""
    bounds = sorted(((renyi_bound(parts, delta), parts) for parts in set(compositions)), reverse=True)
    found = 0.0
    for bound, parts in bounds:
        if bound <= found:
            break
        found = max(found, epsilon(parts, delta))
    return found


@lru_cache(maxsize=4096)
def renyi_bound(parts: Composition, delta: float) -> float:
    """An upper bound on epsilon in microseconds, by Rényi divergences of whole orders.

    Divergences: Mironov, Talwar and Zhang (2019, "Rényi differential privacy of the sampled Gaussian
    mechanism", eq. 8 and 9). Epsilon from them: Canonne, Kamath and Steinke (2020, proposition 12).
    """
    divergence = sum(
        (count * _divergence(noise, rate) for noise, rate, count in parts), np.zeros(len(_ORDERS))
    )
    candidates = divergence + np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1)
    return float(max(candidates.min(), 0.0))


@lru_cache(maxsize=65_536)
def _divergence(noise: float, rate: float) -> NDArray[np.float64]:
    """Rényi divergence of one release at each order."""
    if noise <= 0:
        return np.full(len(_ORDERS), np.inf)
    if rate >= 1:
        return np.asarray(_ORDERS / (2 * noise**2))
    return np.array([_moment(noise, rate, int(order)) / (order - 1) for order in _ORDERS])


def _moment(noise: float, rate: float, order: int) -> float:
    k = np.arange(order + 1)
    binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    weights = binomial + k * math.log(rate) + (order - k) * math.log1p(-rate)
    return float(logsumexp(weights + (k * k - k) / (2 * noise**2)))


@lru_cache(maxsize=64)  # some hundred kB each
def _loss(noise: float, rate: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as distributions

    return distributions.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=_STEP
    )
