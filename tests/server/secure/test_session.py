"""A session: the sum is that of the plain updates, whoever drops out, and nothing else is to be seen."""

import numpy as np
import pytest
from flwr.app import MetricRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedloom_client.flower.records import to_record
from fedloom_edge.errors import RunError
from fedloom_server.secure.unmasking import UnmaskingError

STEPS = ("keys", "shares", "train", "unmask")


@st.composite
def dropping(draw):
    """A number of clients, and when some fall silent: 30 % of them before keys, 30 % of the rest later."""
    count = draw(st.integers(3, 14))
    order = draw(st.permutations(range(count)))
    early = draw(st.integers(0, int(0.3 * count)))
    late = draw(st.integers(0, int(0.3 * (count - early))))
    gone = dict.fromkeys(order[:early], "keys")
    gone |= {k: draw(st.sampled_from(STEPS[1:])) for k in order[early : early + late]}
    return count, gone


@settings(max_examples=40)
@given(case=dropping(), seed=st.integers(0, 100))
def test_the_sum_is_the_plain_one_whoever_drops_out_and_when(swarm, case, seed):
    count, gone = case
    made = swarm(count, gone, seed=seed)
    total = made.round()
    stayed = [k for k in range(count) if gone.get(k) in (None, "unmask")]
    assert made.left == stayed
    assert total.arrays["w"] == pytest.approx(made.plain(stayed), abs=2e-5)
    assert total.examples == sum(made.examples[k] for k in stayed)


@settings(max_examples=40)
@given(steps=st.lists(st.sampled_from((*STEPS, "never", "never", "never")), min_size=3, max_size=10))
def test_whatever_happens_the_sum_is_right_or_stays_masked(swarm, steps):
    made = swarm(len(steps), {k: step for k, step in enumerate(steps) if step != "never"})
    try:
        total = made.round()
    except UnmaskingError:
        return
    if total is not None:
        assert total.arrays["w"] == pytest.approx(made.plain(made.left), abs=2e-5)
        assert len(made.left) >= 3


@pytest.mark.parametrize("step", STEPS)
def test_thirty_percent_of_many_clients_may_drop_out_at_any_step(swarm, step):
    made = swarm(60, dict.fromkeys(range(0, 54, 3), step))  # 18 of 60, in a sparse graph
    total = made.round()
    assert total.arrays["w"] == pytest.approx(made.plain(made.left), abs=2e-5)
    assert len(made.left) == (60 if step == "unmask" else 42)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (dict.fromkeys(range(6), "unmask"), "shares of a secret"),
        (dict.fromkeys(range(8), "train"), "a sum of 2 updates would give them away"),
    ],
)
def test_with_too_few_survivors_the_sum_stays_masked(swarm, gone, said):
    made = swarm(10, gone)
    with pytest.raises(UnmaskingError, match=said):
        made.round()


@pytest.mark.parametrize("step", ["keys", "shares"])
def test_two_clients_are_asked_for_no_update(swarm, step):
    made = swarm(5, {0: step, 1: step, 2: step})
    assert made.round() is None
    assert not [seen for seen in made.seen if seen[0] == "train"]
    assert made.lost.keys() == {0, 1, 2}


def test_the_sum_is_exact_whatever_the_keys_are(swarm):
    first, second = swarm(6).round(), swarm(6).round()
    assert (first.arrays["w"] == second.arrays["w"]).all()


def test_a_masked_update_is_uniform_whatever_it_hides(swarm):
    for spread in (0.0, 5.0):
        made = swarm(4, size=50_000, spread=spread)
        made.round()
        for k in range(4):
            masked = made.seen["train", k]["masked"]
            counts = np.bincount(masked.view(np.uint8), minlength=256)
            assert stats.chisquare(counts).pvalue > 1e-4
            assert stats.kstest(masked / 2.0**32, "uniform").pvalue > 1e-4
            update = made.updates[k]["w"].astype(np.float64)
            if spread:
                assert abs(np.corrcoef(masked[: len(update)], update)[0, 1]) < 0.02
            signs = masked.view(np.int32)[: len(update)] > 0
            assert stats.binomtest(int(signs.sum()), len(signs)).pvalue > 1e-4


def test_two_runs_with_other_updates_cannot_be_told_apart(swarm):
    quiet, loud = swarm(4, size=50_000, spread=0.0), swarm(4, size=50_000, spread=5.0)
    quiet.round(), loud.round()
    for k in range(4):
        pair = quiet.seen["train", k]["masked"], loud.seen["train", k]["masked"]
        assert stats.ks_2samp(*pair).pvalue > 1e-4
        assert (pair[0].mean() / 2.0**32, pair[1].mean() / 2.0**32) == pytest.approx((0.5, 0.5), abs=0.01)


def test_equal_updates_of_two_rounds_look_different(swarm):
    first, second = swarm(4), swarm(4)
    first.round(), second.round()
    a, b = first.seen["train", 0]["masked"], second.seen["train", 0]["masked"]
    assert (a != b).mean() > 0.9
    assert ((a - b) > 2**20).mean() > 0.9  # nor is their difference small


@pytest.mark.parametrize("kind", ["dtype", "length", "open", "examples", "extra"])
def test_a_malformed_vector_is_refused_and_the_sum_is_that_of_the_others(swarm, kind):
    def tamper(step, k, reply):
        if (step, k) != ("train", 2):
            return
        masked = reply.content.array_records["arrays"]["masked"].numpy()
        if kind == "examples":
            reply.content["metrics"] = MetricRecord({"num-examples": 7})
            return
        changed = {
            "dtype": {"masked": masked.astype(np.uint64)},
            "length": {"masked": masked[:-1]},
            "open": {"w": np.zeros(64, np.float32)},
            "extra": {"masked": masked, "w": np.zeros(64, np.float32)},
        }[kind]
        reply.content["arrays"] = to_record(changed)

    made = swarm(6, tamper=tamper)
    total = made.round()
    assert made.left == [0, 1, 3, 4, 5]
    assert 2 in made.lost
    assert total.arrays["w"] == pytest.approx(made.plain(made.left), abs=2e-5)


@pytest.mark.parametrize("step", ["keys", "shares"])
def test_a_malformed_answer_leaves_its_client_out(swarm, step):
    def tamper(at, k, reply):
        if (at, k) == (step, 2):
            reply.content["arrays"] = to_record({"keys": np.zeros((1, 3), np.uint8)})

    made = swarm(6, tamper=tamper)
    assert made.round().arrays["w"] == pytest.approx(made.plain([0, 1, 3, 4, 5]), abs=2e-5)
    assert "another shape" in made.lost[2]


def test_a_wrong_share_is_found_out(swarm):
    def tamper(step, k, reply):
        if (step, k) == ("unmask", 0):
            shares = reply.content.array_records["arrays"]["shares"].numpy()
            shares[1:, -1] ^= 1
            reply.content["arrays"] = to_record({"shares": shares})

    with pytest.raises(UnmaskingError, match=r"client \d"):
        swarm(6, tamper=tamper).round()


def test_a_vector_that_is_no_update_is_seen_in_the_tallies(swarm):
    def tamper(step, k, reply):
        if (step, k) == ("train", 0):
            reply.content["arrays"] = to_record({"masked": np.full(64 + 15, 0x12345678, np.uint32)})

    with pytest.raises(RunError, match="no update"):
        swarm(6, tamper=tamper).round()
