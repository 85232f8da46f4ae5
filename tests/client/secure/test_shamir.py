"""Shares of a secret: any `threshold` of them give it back, fewer say nothing."""

import contextlib
import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client.secure.shamir import PRIME, SHARE_BYTES, join, split


@given(
    secret=st.binary(min_size=32, max_size=32),
    sizes=st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    data=st.data(),
)
def test_any_threshold_of_shares_give_the_secret_back(secret, sizes, data):
    threshold, holders = sizes
    shares = split(secret, threshold, holders)
    chosen = data.draw(st.permutations(range(holders)))[:threshold]
    assert all(len(share) == SHARE_BYTES for share in shares)
    assert join({place + 1: shares[place] for place in chosen}) == secret


def test_one_share_too_few_gives_something_else():
    secret = secrets.token_bytes(32)
    shares = split(secret, 3, 5)
    for pair in itertools.combinations(range(5), 2):
        with contextlib.suppress(ValueError):  # no secret of 32 bytes at all
            assert join({place + 1: shares[place] for place in pair}) != secret


def test_fewer_shares_are_uniform_whatever_the_secret_is():
    low = [int.from_bytes(split(bytes(32), 2, 2)[1], "big") * 8 // PRIME for _ in range(2000)]
    high = [int.from_bytes(split(b"\xff" * 32, 2, 2)[1], "big") * 8 // PRIME for _ in range(2000)]
    for bins in (low, high):
        counts = np.bincount(bins, minlength=8)
        assert ((counts - 250) ** 2 / 250).sum() < 40  # chi-squared with 7 degrees of freedom: p = 1e-6


def test_shares_that_do_not_belong_together_are_found_out():
    first, second = split(b"\x01" * 32, 2, 3), split(b"\x02" * 32, 2, 3)
    with pytest.raises(ValueError, match="do not belong together"):
        join({1: first[0], 2: second[1]})


def test_the_field_is_one():
    # Lucas-Lehmer: 2**p - 1 is prime if and only if s(p-2) is 0 modulo it.
    value = 4
    for _ in range(521 - 2):
        value = (value * value - 2) % PRIME
    assert value == 0
