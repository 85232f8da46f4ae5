"""Masks: two clients make the same ones with opposite signs, of streams that look like chance."""

import secrets

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedloom_client.secure.masks import KeyPair, add_masks, agreed_key, pair_mask, sealing_keys


def pair():
    return KeyPair.of(secrets.token_bytes(32))


SIZES = (1, 7, 1 << 15, (1 << 15) + 1, 100_003)


@pytest.mark.parametrize("size", SIZES)
def test_masks_of_a_pair_cancel(size):
    first, second = pair(), pair()
    total = np.zeros(size, np.uint32)
    for mine, other in ((first, second), (second, first)):
        vector = np.zeros(size, np.uint32)
        add_masks(vector, [pair_mask(mine, other.public, "s")])
        assert vector.any()
        total += vector
    assert not total.any()


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_the_cipher_s_stream(size):
    key = secrets.token_bytes(32)
    vector = np.zeros(size, np.uint32)
    add_masks(vector, [(key, 1)])
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * size))
    assert vector.tobytes() == stream


def test_more_masks_than_fit_together_are_all_added():
    keys = [secrets.token_bytes(32) for _ in range(600)]
    vector = np.zeros(5, np.uint32)
    add_masks(vector, [(key, 1) for key in keys])
    for key in keys:
        add_masks(vector, [(key, -1)])
    assert not vector.any()


def test_a_key_serves_one_purpose_and_one_session():
    mine, other = pair(), pair().public
    keys = {agreed_key(mine, other, purpose, s) for purpose in (b"mask", b"shares") for s in ("1", "2")}
    assert len(keys) == 4
    assert pair_mask(mine, other, "1")[0] != pair_mask(mine, other, "2")[0]


def test_what_one_seals_the_other_opens_and_each_direction_has_a_key():
    first, second = pair(), pair()
    there, back = sealing_keys(first, second.public, "1")
    assert (back, there) == sealing_keys(second, first.public, "1")
    assert there != back


def test_a_public_key_of_low_order_is_refused():
    with pytest.raises(ValueError):
        agreed_key(pair(), bytes(32), b"mask", "1")
