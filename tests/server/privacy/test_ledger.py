"""The ledger: a release once, however often it is noted; nothing is ever taken back."""

import pytest
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom_client.training import Training
from fedloom_edge.errors import InputError
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.ledger import Ledger, Release
from fedloom_server.privacy.mechanisms import Mechanisms, check_budget
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.registry import make_strategy

PRIVATE = Training(batch_size=10, epochs=2, dp_noise=1.5, dp_clip=1.0)


@pytest.fixture
def store(tmp_path):
    with RunStore.create(tmp_path / "run", {}) as made:
        yield made


RELEASES = st.lists(
    st.tuples(
        st.sampled_from(["client", "sample"]), st.integers(1, 3), st.integers(-1, 2), st.sampled_from("ab")
    ),
    max_size=30,
)


@settings(max_examples=20, deadline=None)
@given(RELEASES, RELEASES)
def test_what_was_noted_is_counted_once_also_by_another_process(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("ledger") / "run"
    with RunStore.create(folder, {}) as store:
        for keys in (first, second):  # the second is a process that went on from before some of the first
            ledger = Ledger(store)
            ledger.note(Release(*key, 1.0, 0.5, 3) for key in keys)
            with store.transaction():
                ledger.write()
        expected = {*first, *second}
        for unit in ("client", "sample"):
            for client, counts in Ledger(store).spent(unit).items():
                own = [key for key in expected if (key[0], key[2]) == (unit, client)]
                assert counts == {(1.0, 0.5): 3 * len(own)}


def test_rounds_that_are_undone_stay_in_it(store):
    ledger = Ledger(store)
    ledger.note([Release("client", 5, -1, "a", 1.0, 1.0, 1)])
    with store.transaction():
        ledger.write()
        store.drop_rounds_after(2)
    assert Ledger(store).spent("client")


def test_what_is_not_written_is_counted_already(store):
    ledger = Ledger(store)
    ledger.note([Release("client", 1, -1, "a", 1.0, 1.0, 1)])
    assert ledger.spent("client")[-1] == {(1.0, 1.0): 1}
    assert not Ledger(store).spent("client")


def test_a_client_is_charged_for_every_step_that_it_was_asked_for():
    mechanisms = Mechanisms.of(FedAvg(), PRIVATE)
    [release] = mechanisms.asked(3, "k", {7: 95})
    assert release == Release("sample", 3, 7, "k", 1.5, 10 / 95, 20)
    assert mechanisms.cost("sample", 4) == (1.5, 1.0, 2)  # a batch that takes all
    [more] = mechanisms.grown(3, "k", 7, 95, 131)
    assert more == Release("sample", 3, 7, "k", 1.5, 10 / 95, 8)
    assert list(mechanisms.grown(3, "k", 7, 95, 96)) == []


def test_local_noise_is_told_against_twice_the_bound():
    options = {"noise_multiplier": "3", "clipping_norm": "0.5"}
    strategy = make_strategy("dp-local", options, clients=4, lr=0.1)
    assert Mechanisms.of(strategy, Training()).local == 1.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilon", "write epsilon=8"),
        ("epsilon=nan", "must be above 0"),
        ("epsilon=0", "must be above 0"),
        ("delta=1", "between 0 and 1"),
        ("epsilon=8,epsilon=9", "given twice"),
        ("", "unknown key of --privacy"),
        ("epsilom=1", "did you mean 'epsilon'"),
    ],
)
def test_a_malformed_budget_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        Budget.parse(text)


def test_a_budget_may_have_a_delta_alone():
    assert Budget.parse("delta=1e-3").epsilon == float("inf")
    check_budget(Budget.parse("delta=1e-3"), Mechanisms.of(FedAvg(), PRIVATE), [5])
    with pytest.raises(InputError, match="dp_noise=VALUE"):
        check_budget(Budget.parse("epsilon=0.5,delta=1e-3"), Mechanisms.of(FedAvg(), PRIVATE), [5])
