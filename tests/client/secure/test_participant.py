"""A client in a session: what it answers, once each, and what it refuses."""

import numpy as np
import pytest

from fedloom_client.secure.masks import KeyPair
from fedloom_client.secure.participant import (
    KEYS,
    MASKED,
    PRESENT,
    SEALED,
    SESSION,
    SHARES,
    STEP,
    Participant,
    SecureError,
)
from fedloom_client.secure.shamir import join

SIZE = 50


class Circle:
    """Clients who all know each other, as an honest coordinator leads them."""

    def __init__(self, count=5, session="s"):
        self.session, self.count = session, count
        self.members = [Participant() for _ in range(count)]
        self.threshold = count // 2 + 1
        self.sealed = {}

    def ask(self, k, step, arrays=None, **settings):
        named = {f"secure.{key}": value for key, value in settings.items()}
        return self.members[k].answer({STEP: step, SESSION: self.session, **named}, arrays or {})

    def others(self, k):
        return [other for other in range(self.count) if other != k]

    def keys(self):
        self.public = [self.ask(k, "keys")[KEYS][0] for k in range(self.count)]
        return self

    def shares(self):
        for k in range(self.count):
            keys = np.stack([self.public[other] for other in self.others(k)])
            self.sealed[k] = self.ask(k, "shares", {KEYS: keys}, threshold=self.threshold)[SEALED]
        return self

    def mask(self, k, vector=None, present=None):
        settings = {SESSION: self.session, PRESENT: present or f"{2 ** (self.count - 1) - 1:x}"}
        return self.members[k].mask(settings, np.zeros(SIZE, np.uint32) if vector is None else vector)[MASKED]

    def masks(self):
        self.vectors = [self.mask(k) for k in range(self.count)]
        return self

    def sealed_for(self, k):
        return np.stack([self.sealed[other][self.others(other).index(k)] for other in self.others(k)])

    def unmask(self, k, survivors=None):
        text = f"{2 ** (self.count - 1) - 1:x}" if survivors is None else survivors
        return self.ask(k, "unmask", {SEALED: self.sealed_for(k)}, present=text)[SHARES]


def test_a_vector_says_nothing_until_all_are_added():
    circle = Circle().keys().shares().masks()
    assert all(vector.any() for vector in circle.vectors)
    total = sum(circle.vectors[1:], circle.vectors[0].copy())
    assert total.any()  # their own masks are still on it


def test_survivors_give_the_seeds_of_others_and_the_keys_of_those_who_dropped():
    circle = Circle().keys().shares()
    for k in range(4):
        circle.mask(k)
    gone = 4  # of everybody's neighbours the last
    rows = [circle.unmask(k, survivors="7") for k in range(4)]
    of_gone = {circle.others(gone).index(k) + 2: rows[k][1 + 3].tobytes() for k in range(4)}
    private = join(dict(list(of_gone.items())[:3]))
    assert KeyPair.of(private).public == circle.public[gone][1].tobytes()
    seed = {1: rows[0][0].tobytes()} | {
        circle.others(0).index(k) + 2: rows[k][1 + circle.others(k).index(0)].tobytes() for k in (1, 2)
    }
    assert len(join(seed)) == 32


def test_a_client_never_gives_both_shares_of_a_neighbour():
    circle = Circle().keys().shares().masks()
    first = circle.unmask(0, survivors="f")
    with pytest.raises(SecureError, match="keys of this session are gone"):
        circle.unmask(0, survivors="7")  # a resend with another set
    with pytest.raises(SecureError, match="gone"):
        circle.unmask(0, survivors="f")
    assert first.shape == (5, 66)


@pytest.mark.parametrize("count", range(3, 12))
def test_whatever_different_clients_are_told_no_more_than_one_secret_of_a_client_is_known(count):
    """Of each holder comes one share; more than half are needed for the seed, and as many for the key."""
    circle = Circle(count).keys().shares().masks()
    victim, told_in = 0, count // 2
    seeds = keys = 0
    for k in circle.others(victim):
        place = circle.others(k).index(victim)
        everybody = 2 ** (count - 1) - 1
        survivors = everybody if k <= told_in else everybody & ~(1 << place)
        try:
            circle.unmask(k, survivors=f"{survivors:x}")
        except SecureError:
            continue
        seeds, keys = seeds + (k <= told_in), keys + (k > told_in)
    assert min(seeds + 1, keys) < circle.threshold  # with the victim's own share of its seed


def test_a_second_vector_under_the_same_masks_is_refused():
    circle = Circle().keys().shares().masks()
    with pytest.raises(SecureError, match="after masked"):
        circle.mask(0)


def test_keys_are_given_once_a_session_and_are_new_in_the_next():
    circle = Circle().keys()
    with pytest.raises(SecureError, match="have been given"):
        circle.ask(0, "keys")
    before = circle.public[0].copy()
    circle.session = "another"
    assert (circle.keys().public[0] != before).any()


def test_a_new_session_gives_the_old_one_up():
    circle = Circle().keys().shares().masks()
    circle.members[0].answer({STEP: "keys", SESSION: "another"}, {})
    with pytest.raises(SecureError, match="gone"):
        circle.unmask(0)


def test_a_client_that_was_restarted_drops_out():
    circle = Circle().keys().shares()
    circle.members[0] = Participant()
    with pytest.raises(SecureError, match="gone"):
        circle.mask(0)


@pytest.mark.parametrize("threshold", [0, 2, 6, 2.5, None])
def test_a_threshold_of_half_or_less_or_beyond_all_is_refused(threshold):
    circle = Circle().keys()
    keys = np.stack([circle.public[other] for other in circle.others(0)])
    with pytest.raises(SecureError, match="threshold"):
        circle.ask(0, "shares", {KEYS: keys}, threshold=threshold)


def test_neighbours_that_are_one_and_the_same_are_refused():
    circle = Circle().keys()
    keys = np.stack([circle.public[1]] * 4)
    with pytest.raises(SecureError, match="stands twice"):
        circle.ask(0, "shares", {KEYS: keys}, threshold=3)
    own = np.stack([circle.public[k] for k in (0, 1, 2, 3)])
    with pytest.raises(SecureError, match="stands twice"):
        circle.ask(0, "shares", {KEYS: own}, threshold=3)


@pytest.mark.parametrize("keys", [None, np.zeros((4, 2, 31), np.uint8), np.zeros((4, 64), np.uint8)])
def test_malformed_keys_are_refused(keys):
    circle = Circle().keys()
    with pytest.raises(SecureError, match="keys is missing"):
        circle.ask(0, "shares", {} if keys is None else {KEYS: keys}, threshold=3)


def test_keys_of_low_order_are_refused():
    circle = Circle().keys()
    keys = np.stack([circle.public[other] for other in circle.others(0)])
    keys[1, 0] = 0
    with pytest.raises(SecureError, match="key is none"):
        circle.ask(0, "shares", {KEYS: keys}, threshold=3)
    keys[1] = circle.public[2]
    keys[1, 1] = 0
    circle.ask(0, "shares", {KEYS: keys}, threshold=3)
    with pytest.raises(SecureError, match="key is none"):
        circle.mask(0)


def test_too_few_neighbours_present_or_left_are_refused():
    circle = Circle().keys().shares()
    with pytest.raises(SecureError, match="2 clients of 5 are left, 3 are needed"):
        circle.mask(0, present="1")
    circle.masks()
    with pytest.raises(SecureError, match="2 of 5 clients are in the sum, 3 are needed"):
        circle.unmask(0, survivors="8")


def test_who_was_not_present_cannot_be_in_the_sum():
    circle = Circle().keys().shares()
    circle.mask(0, present="7")
    with pytest.raises(SecureError, match="could not be in it"):
        circle.unmask(0, survivors="f")


@pytest.mark.parametrize("text", ["", "zz", "-1", "1f", "1" * 65, 7, None])
def test_neighbours_that_do_not_exist_are_refused(text):
    circle = Circle().keys().shares()
    with pytest.raises(SecureError, match="secure:"):
        circle.members[0].mask({SESSION: "s", PRESENT: text}, np.zeros(SIZE, np.uint32))


def test_steps_out_of_order_are_refused():
    circle = Circle()
    with pytest.raises(SecureError, match="gone"):
        circle.mask(0)
    circle.keys()
    with pytest.raises(SecureError, match="after keys"):
        circle.mask(0)
    with pytest.raises(SecureError, match="no step"):
        circle.ask(0, "reveal")


def test_a_share_that_was_sealed_wrongly_is_left_out():
    circle = Circle().keys().shares().masks()
    circle.sealed[1] = circle.sealed[1] ^ 1
    shares = circle.unmask(0)
    assert not shares[1 + circle.others(0).index(1)].any()
    assert shares[1 + circle.others(0).index(2)].any()


def test_secrets_do_not_show_in_print():
    circle = Circle().keys().shares()
    text = repr(circle.members[0].secrets)
    for name in ("channel", "masking", "seed", "own"):
        assert name not in text
