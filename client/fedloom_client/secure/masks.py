"""Keys that two clients agree on, and the streams of masks that are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

KEY_BYTES = 32
_CHUNK = 1 << 15  # elements worked on at a time: 128 KiB stay in the second-level cache
_ZEROS = memoryview(bytes(4 * _CHUNK))
_TOGETHER = 512

Vector = NDArray[np.uint32]


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key (RFC 7748), its public half in raw bytes.

    Loading one costs as much as an exchange with it, so it is made once for many.
    """

    private: X25519PrivateKey
    public: bytes

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """The pair of a secret key (32 bytes, any)."""
        private = X25519PrivateKey.from_private_bytes(secret)
        return cls(private, private.public_key().public_bytes_raw())


def agreed_key(mine: KeyPair, public: bytes, purpose: bytes, session: str, length: int = KEY_BYTES) -> bytes:
    """What the owner of `mine` and the owner of `public` both know, for one purpose in one session.

    X25519, then HKDF with SHA-256 (RFC 5869).

    Raises:
        ValueError: `public` is no key (a point of low order).
    """
    shared = mine.private.exchange(X25519PublicKey.from_public_bytes(public))
    info = b"\0".join((b"fedloom", purpose, session.encode()))
    return HKDF(SHA256(), length, salt=None, info=info).derive(shared)


def sealing_keys(mine: KeyPair, public: bytes, session: str) -> tuple[bytes, bytes]:
    """Keys of what the owner of `mine` sends to the owner of `public`, and of what it gets from there.

    Raises:
        ValueError: `public` is no key.
    """
    keys = agreed_key(mine, public, b"shares", session, 2 * KEY_BYTES)
    first, second = keys[:KEY_BYTES], keys[KEY_BYTES:]
    return (first, second) if mine.public < public else (second, first)


def commitment(session: str, seed: bytes) -> bytes:
    """What tells whether a seed is the right one, and of 32 random bytes no more (32 bytes)."""
    digest = Hash(SHA256())
    digest.update(b"fedloom seed\0" + session.encode() + b"\0" + seed)
    return digest.finalize()


def pair_mask(mine: KeyPair, theirs: bytes, session: str) -> tuple[bytes, int]:
    """Key of the mask that two clients share, and its sign at the owner of `mine`.

    The signs of the two are opposite, so that the masks cancel in a sum.
    """
    return agreed_key(mine, theirs, b"mask", session), 1 if mine.public < theirs else -1


def add_masks(vector: Vector, masks: Sequence[tuple[bytes, int]]) -> None:
    """Add to a vector (D,) in place, modulo 2**32, the stream of each key times its sign.

    A stream is ChaCha20's (RFC 8439) with a nonce of zeros: a key makes one stream and no other. It is
    cut into chunks that stay in the cache, each of which takes many masks before the next begins.
    """
    for first in range(0, len(masks), _TOGETHER):
        _add(vector, masks[first : first + _TOGETHER])


def _add(vector: Vector, masks: Sequence[tuple[bytes, int]]) -> None:
    streams = [(Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor(), sign) for key, sign in masks]
    buffer = bytearray(4 * _CHUNK)
    for start in range(0, len(vector), _CHUNK):
        part = vector[start : start + _CHUNK]
        words = np.frombuffer(buffer, "<u4", len(part))
        for stream, sign in streams:
            stream.update_into(_ZEROS[: 4 * len(part)], buffer)
            if sign > 0:
                part += words
            else:
                part -= words
