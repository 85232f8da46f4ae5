"""Flower's strategies by name, with their own options as text."""

import flwr.serverapp.strategy as flower
import pytest

from fedloom_edge.errors import InputError
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.strategies.composed import Composed
from fedloom_server.strategies.registry import OWN, TREES, is_server_optimizer, make_strategy, names

DP = {"noise_multiplier": "0.1", "clipping_norm": "1"}
TRAINABLE = [name for name in names() if name not in TREES]


def required(name):
    """Options that a strategy has no default for."""
    if not name.startswith("dp-"):
        return {}
    return {"noise_multiplier": "0.1"} if "adaptive" in name else DP


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_strategy_is_made_by_its_name(name):
    assert isinstance(make_strategy(name, required(name), clients=10, lr=0.1), flower.Strategy)


def test_every_strategy_that_flower_exports_is_reachable():
    made = {type(make_strategy(name, required(name), clients=10, lr=0.1)) for name in TRAINABLE}
    exported = (getattr(flower, name) for name in flower.__all__)
    strategies = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, flower.Strategy)}
    trees = {kind for kind in strategies if kind.__name__.lower() in TREES}
    ours = {*OWN.values(), Composed, PrivateMean, LocalPrivacy}
    private = {kind for kind in strategies if kind.__name__.startswith("DifferentialPrivacy")}
    assert strategies - trees - private - {flower.Strategy} == made - ours


def test_options_reach_the_strategy_as_its_own_types():
    adam = make_strategy(
        "FedAdam", {"eta": "0.01", "min_train_nodes": "3", "fraction_train": "0.5"}, clients=10, lr=0.1
    )
    assert (adam.eta, adam.min_train_nodes, adam.fraction_train) == (0.01, 3, 0.5)


def test_a_wrapper_goes_around_a_base_and_both_get_their_options():
    wrapped = make_strategy(
        "dp-server-fixed:fedadam", {**DP, "eta": "0.5", "fraction_train": "0.4"}, clients=10, lr=0.1
    )
    assert wrapped.strategy.eta == 0.5
    assert (wrapped.clipping_norm, wrapped.rate, wrapped.expected) == (1.0, 0.4, 4)
    assert wrapped.strategy.fraction_train == 1.0  # the wrapper draws
    assert is_server_optimizer(wrapped.strategy)
    assert not is_server_optimizer(wrapped)


def test_a_federation_of_one_client_does_not_wait_for_a_second():
    strategy = make_strategy("fedavg", {}, clients=1, lr=0.1)
    assert (strategy.min_train_nodes, strategy.min_evaluate_nodes, strategy.min_available_nodes) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedavgg", {}, "did you mean 'fedavg'"),
        ("dp-server-fxed:fedavg", {}, "did you mean 'dp-server-fixed'"),
        ("fedadam", {"etaa": "1"}, "did you mean 'eta'"),
        ("fedadam", {"eta": "big"}, "expected a number"),
        ("dp-server-fixed", {}, "--set strategy.noise_multiplier=VALUE"),
        ("fedxgbbagging", {}, "XGBoost"),
        ("dp-server-fixed:krum", DP, "krum looks at each"),
        ("dp-server-fixed", {**DP, "clipping_norm": "0"}, "above 0"),
        ("dp-server-fixed", {**DP, "fraction_train": "0"}, "fraction_train"),
        ("fedavg", {"fraction_train": "1.5"}, "a share of the clients, from 0 to 1"),
        ("fedavg", {"fraction_train": "0"}, "above 0, or nobody trains"),
        ("fedadam", {"fraction_evaluate": "nan"}, "from 0 to 1"),
        ("ditto", {"min_train_nodes": "11"}, "from 1 to 10, the clients that there are"),
        ("dp-local", {**DP, "min_available_nodes": "11"}, "from 1 to 10"),
        ("feddyn", {"alpha": "inf"}, "must be finite"),
        ("fedprox", {"proximal_mu": "-1"}, "at least 0"),
        ("fedbuff", {}, "--mode async"),
        ("dp-local:", DP, "nothing after the colon"),
        ("dp-server-adaptive", {"noise_multiplier": "1"}, "raise clipped_count_stddev"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_the_mend(name, options, message):
    with pytest.raises(InputError, match=message):
        make_strategy(name, options, clients=10, lr=0.1)
