"""What each algorithm's paper promises, on problems whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client.algorithms.apfl import APFL
from fedloom_client.algorithms.base import Algorithm, progress
from fedloom_client.algorithms.ditto import Ditto
from fedloom_client.algorithms.feddyn import FedDyn
from fedloom_client.algorithms.fednova import FedNova
from fedloom_client.algorithms.fedprox import InexactProx
from fedloom_client.algorithms.fedrep import FedRep
from fedloom_client.algorithms.ifca import IFCA
from fedloom_client.algorithms.registry import ALGORITHMS, make_algorithm, name_of
from fedloom_client.algorithms.scaffold import Scaffold
from fedloom_client.training import Training
from fedloom_edge.errors import InputError

from .conftest import Quadratics

FEDAVG = Algorithm()
UNEVEN = [1, 3, 5, 9, 2]


def distance(federation, weights=None):
    return float(np.linalg.norm(federation.arrays["w"] - federation.optimum(weights)))


@pytest.mark.parametrize("algorithm", [Scaffold(), FedDyn(alpha=0.5)])
def test_drift_is_gone_where_fedavg_stops_short_of_the_optimum(quadratics, algorithm):
    plain, corrected = quadratics(FEDAVG, steps=[10] * 5), quadratics(algorithm, steps=[10] * 5)
    plain.run(300)
    corrected.run(300)
    assert distance(plain) > 1e-2
    assert distance(corrected) < 1e-3 * distance(plain)


def test_scaffold_gets_there_with_a_part_of_the_clients(quadratics):
    federation = quadratics(Scaffold(), steps=[10] * 5)
    federation.run(1500, share=2)
    assert distance(federation) < 1e-3


@pytest.mark.parametrize("share", [None, 2])
def test_scaffolds_control_variates_average_to_the_servers(quadratics, share):
    federation = quadratics(Scaffold(), steps=UNEVEN)
    for number in range(1, 12):
        federation.run(number, share)
        known = [memory.get("w", np.zeros(4)) for memory in federation.memories]
        np.testing.assert_allclose(np.mean(known, axis=0), federation.state["w"], atol=1e-5)


def test_scaffolds_control_variate_is_the_clients_mean_gradient(quadratics):
    federation = quadratics(Scaffold(), steps=[1] * 5)
    federation.round(1)
    for client in range(5):
        expected = federation.gradient(client, np.zeros(4))
        np.testing.assert_allclose(federation.memories[client]["w"], expected, rtol=1e-5)


@given(steps=st.integers(1, 8), weights=st.lists(st.integers(1, 50), min_size=5, max_size=5))
def test_fednova_is_fedavg_where_all_take_equally_many_steps(steps, weights):
    nova = Quadratics(FedNova(), steps=[steps] * 5, weights=weights)
    average = Quadratics(FEDAVG, steps=[steps] * 5, weights=weights)
    np.testing.assert_allclose(nova.run(3), average.run(3), rtol=1e-9, atol=1e-12)


def test_fednova_optimises_the_weighted_objective_where_fedavg_favours_the_busy(quadratics):
    weights, small = [1, 2, 3, 4, 5], 0.002
    nova = quadratics(FedNova(), steps=UNEVEN, weights=weights, lr=small)
    average = quadratics(FEDAVG, steps=UNEVEN, weights=weights, lr=small)
    nova.run(2500)
    average.run(2500)
    assert distance(average) > 0.1
    assert distance(nova) < 0.1 * distance(average)


def test_progress_counts_gradients_as_the_optimiser_applies_them():
    for optimizer, momentum in (("sgd", 0.0), ("momentum", 0.9), ("momentum", 0.5)):
        x, velocity, lr = 0.0, 0.0, 0.1
        for _ in range(7):
            velocity = momentum * velocity + 1.0  # a constant gradient of 1
            x -= lr * velocity
        counted = progress(Training(optimizer=optimizer, momentum=momentum, lr=lr), 7)
        assert counted == pytest.approx(-x / lr)
    x, lr, mu = 0.0, 0.1, 0.7
    for _ in range(7):
        x -= lr * (1.0 + mu * x)
    assert progress(Training(optimizer="sgd", lr=lr), 7, mu) == pytest.approx(-x / lr)


def test_dittos_global_model_is_fedavgs_bit_for_bit(quadratics):
    ditto, average = quadratics(Ditto(lam=0.3), weights=UNEVEN), quadratics(FEDAVG, weights=UNEVEN)
    assert ditto.run(10).tobytes() == average.run(10).tobytes()


@pytest.mark.parametrize(("lam", "where"), [(0.0, "own"), (1000.0, "global")])
def test_dittos_personal_models_lie_between_the_own_optimum_and_the_global_model(quadratics, lam, where):
    federation = quadratics(Ditto(lam=lam), lr=0.001 if lam else 0.05, steps=[50] * 5)
    federation.run(60)
    for client in range(5):
        target = federation.centres[client] if where == "own" else federation.arrays["w"]
        assert np.linalg.norm(federation.personal(client) - target) < 0.02


def test_apfls_alpha_grows_where_the_own_model_fits_better(quadratics):
    federation = quadratics(APFL(), spread=2.0)
    federation.memories[0] = {"alpha": np.array(0.5), "own/w": federation.centres[0]}
    _, memory = federation.algorithm.fit(federation.work(0, 1))
    assert float(memory["alpha"]) > 0.5


def test_apfls_clients_come_near_their_own_optimum(quadratics):
    federation = quadratics(APFL(), spread=2.0, steps=[10] * 5)
    federation.run(80)
    for client in range(5):
        own = federation.centres[client]
        assert np.linalg.norm(federation.personal(client) - own) < 0.2 * np.linalg.norm(
            federation.arrays["w"] - own
        )


def test_apfl_with_alpha_1_trains_alone(quadratics):
    federation = quadratics(APFL(alpha=1.0, adaptive=False))
    federation.run(5)
    alone = np.zeros(4)
    for _ in range(25):
        alone = alone - 0.05 * federation.gradient(0, alone)
    np.testing.assert_allclose(federation.personal(0), alone)


def test_ifca_finds_the_clusters(quadratics):
    federation = quadratics(IFCA(clusters=2), clients=6, steps=[10] * 6)
    for client in range(6):
        federation.centres[client] = np.full(4, 3.0 if client % 2 else -3.0)
    federation.run(30)
    for client in range(6):
        np.testing.assert_allclose(federation.personal(client), federation.centres[client], atol=1e-3)


def test_ifcas_global_arrays_are_the_largest_clusters(quadratics):
    federation = quadratics(IFCA(clusters=2), clients=5, steps=[10] * 5)
    for client in range(5):
        federation.centres[client] = np.full(4, 3.0 if client < 3 else -3.0)
    federation.run(30)
    np.testing.assert_allclose(federation.arrays["w"], np.full(4, 3.0), atol=1e-3)


def test_ifca_begins_with_models_that_are_drawn_anew(quadratics):
    state = quadratics(IFCA(clusters=3)).state
    assert [state[f"{index}/w"][0] for index in range(3)] == [0.0, 0.1, 0.2]


def test_ifca_never_chooses_a_model_that_is_broken(quadratics):
    federation = quadratics(IFCA(clusters=2))
    federation.state |= {"0/w": np.full(4, np.nan)}
    federation.run(1)
    assert np.isfinite(federation.arrays["w"]).all()


@pytest.mark.parametrize("head", ["", "fc", "classifier"])
def test_fedreps_head_is_a_layer_and_not_those_whose_names_begin_like_it(head):
    names = ("fc1.weight", "fc1.bias", "classifier.0.weight", "classifier.3.weight", "fc.weight", "fc.bias")
    arrays = {name: np.zeros(2) for name in names}
    _, kept = FedRep(head=head).terms(arrays, frozenset()).frozen
    assert kept == {name for name in names if name.startswith(f"{head or 'fc'}.")}


def test_stragglers_do_a_part_of_the_round_the_same_for_the_same_seed(quadratics):
    def steps(stragglers):
        federation = quadratics(InexactProx(stragglers=stragglers), steps=[20] * 5)
        works = [federation.work(client, number) for client in range(5) for number in range(20)]
        return [federation.algorithm.fit(work)[0].metrics["steps"] for work in works]

    assert steps(0.0) == [20] * 100
    some = steps(0.5)
    assert some == steps(0.5)
    assert 30 <= sum(count < 20 for count in some) <= 70
    assert min(some) >= 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_travels_as_its_name_and_options(name):
    made = make_algorithm(name, {})
    assert name_of(made) == name
    assert make_algorithm(name, made.options()) == made


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("scafold", {}, "did you mean 'scaffold'"),
        ("ditto", {"lambda": 1.0}, "did you mean 'lam'"),
        ("ditto", {"lam": "much"}, "of the wrong kind"),
        ("ditto", {"lam": -1.0}, "at least 0"),
        ("feddyn", {"alpha": 0.0}, "above 0"),
        ("ifca", {"clusters": 1}, "from 2 to 100"),
        ("ifca", {"clusters": 2.5}, "of the wrong kind"),
        ("apfl", {"alpha": 0.0}, "strategy.alpha"),
        ("fedrep", {"head_epochs": 0}, "at least 1"),
        ("scaffold", {"server_lr": 0.0}, "above 0"),
        ("fedprox-inexact", {"stragglers": 2.0}, "from 0 to 1"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(name, options, said):
    with pytest.raises(InputError, match=said) as caught:
        make_algorithm(name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claim", [None, 0.0, -1.0, 1e9, "5"])
def test_claims_that_would_magnify_an_update_are_faults(claim):
    assert Scaffold().fault({"steps": claim}, 100).startswith("steps: ")
    assert FedNova().fault({"normaliser": claim}, 100).startswith("steps: ")
    assert not Scaffold().fault({"steps": 100.0}, 100)
    assert not FedNova().fault({"normaliser": 300.0}, 100)


@pytest.mark.parametrize("claim", [None, -1.0, 2.0, 0.5, "0"])
def test_a_cluster_that_does_not_exist_is_a_fault(claim):
    assert IFCA(clusters=2).fault({"cluster": claim}, 100).startswith("cluster: ")
    assert not IFCA(clusters=2).fault({"cluster": 1.0}, 100)
