"""What a client does in a round of secure aggregation, and what it refuses to.

Bonawitz et al. (2017), "Practical secure aggregation for privacy-preserving machine learning", fig. 4,
among the neighbours of a sparse graph as Bell et al. (2020), "Secure single-server aggregation with
(poly)logarithmic overhead". Four steps, each a message of the coordinator and its answer:

1. keys: two fresh public keys.
2. shares: the secret key of the masks and the seed of the client's own mask, in shares, each sealed for
   the neighbour who is to hold it.
3. the update, under the masks of the neighbours who have answered step 2, and under the client's own.
4. unmask: of each neighbour one share, of the seed if its update is in the sum, of the key if it is not.

The keys are new for each session, an attempt at a round. A step is taken once: a second vector under
the same masks would give away the difference, and both shares of one neighbour its update. Since more
than half of the holders are needed for either secret, a coordinator that tells some that a client is in
the sum and others that it is not cannot have both.

Needs numpy and cryptography only.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from fedloom_client.secure.masks import (
    KEY_BYTES,
    KeyPair,
    Vector,
    add_masks,
    commitment,
    pair_mask,
    sealing_keys,
)
from fedloom_client.secure.shamir import SECRET_BYTES, SHARE_BYTES, split
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError

STEP, SESSION, THRESHOLD, PRESENT = "secure.step", "secure.session", "secure.threshold", "secure.present"
"""Keys of a message's settings: the step, the session's name, how many shares give a secret back, and
which of the neighbours are present, a bit each in their order, as hexadecimal digits."""
KEYS, SHARES, SEED, SEALED, MASKED = "keys", "shares", "seed", "sealed", "masked"
"""Names of arrays: public keys (N, 2, 32), shares (1 + N, 66), a seed's commitment (32,), sealed shares
(N, 148), all uint8, and the masked vector (D,), uint32."""
SEALED_BYTES = 2 * SHARE_BYTES + 16
MOST_NEIGHBOURS = 256
"""Their bits are at most 64 hexadecimal digits."""
_NONCE = bytes(12)  # a key seals one message

Bytes = NDArray[np.uint8]


class SecureError(FedloomError):
    """A client does not take the step that it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What a client knows in a session. It is never written to a disk, and forgotten after the last step.

    Attributes:
        session: its name.
        done: the last step: keys, shares or masked.
        channel: secret key that shares for this client are sealed with.
        masking: secret key of the masks with neighbours.
        seed: of the client's own mask.
        threshold: shares that give a secret back.
        neighbours: channel and masking public key of each, one after the other.
        own: the client's own share of its seed.
        opening: key of each neighbour's share.
        present: which neighbours' masks are in its vector.
    """

    session: str
    done: str
    channel: bytes = field(repr=False)
    masking: bytes = field(repr=False)
    seed: bytes = field(default=b"", repr=False)
    threshold: int = 0
    neighbours: bytes = b""
    own: bytes = field(default=b"", repr=False)
    opening: bytes = field(default=b"", repr=False)
    present: str = ""


class Participant:
    """A client in the sessions that it is asked to take part in, one at a time.

    Attributes:
        secrets: of the session that goes on; None without one.
    """

    def __init__(self, secrets: Secrets | None = None) -> None:
        self.secrets = secrets

    def answer(self, settings: Mapping[str, Any], arrays: Arrays) -> Arrays:
        """The answer to step 1, 2 or 4.

        Raises:
            SecureError: the step is not one that may be taken now, or what came with it is malformed.
        """
        match settings.get(STEP):
            case "keys":
                return self._advertise(_text(settings, SESSION))
            case "shares":
                return self._share(settings, _bytes(arrays, KEYS, (2, KEY_BYTES)))
            case "unmask":
                return self._unmask(settings, _bytes(arrays, SEALED, (SEALED_BYTES,)))
            case other:
                raise SecureError(f"secure aggregation has no step {other!r}; update fedloom here")

    def mask(self, settings: Mapping[str, Any], vector: Vector) -> Arrays:
        """Step 3: the vector under its masks; `vector` itself is used up.

        Raises:
            SecureError: it is not the time for that, or too few neighbours are present.
        """
        mine = self._after("shares", settings)
        neighbours, present = _neighbours(mine), _present(settings, mine)
        if len(present) + 1 < mine.threshold:
            raise SecureError(
                f"secure: {len(present) + 1} clients of {len(neighbours) + 1} are left, "
                f"{mine.threshold} are needed"
            )
        pair = KeyPair.of(mine.masking)
        try:
            masks = [pair_mask(pair, neighbours[k][1], mine.session) for k in present]
        except ValueError:
            raise SecureError("secure: a neighbour's key is none") from None
        self.secrets = replace(mine, done="masked", present=str(settings[PRESENT]))
        add_masks(vector, [(mine.seed, 1), *masks])
        return {MASKED: vector}

    def _advertise(self, session: str) -> Arrays:
        if self.secrets is not None and self.secrets.session == session:
            raise SecureError("secure: keys of this session have been given already")
        # Whatever was open is given up: its masks stay unknown for ever.
        self.secrets = Secrets(
            session=session,
            done="keys",
            channel=secrets.token_bytes(KEY_BYTES),
            masking=secrets.token_bytes(KEY_BYTES),
        )
        public = KeyPair.of(self.secrets.channel).public + KeyPair.of(self.secrets.masking).public
        return {KEYS: np.frombuffer(public, np.uint8).reshape(1, 2, KEY_BYTES)}

    def _share(self, settings: Mapping[str, Any], keys: Bytes) -> Arrays:
        mine = self._after("keys", settings)
        threshold = settings.get(THRESHOLD)
        holders = len(keys) + 1
        if not isinstance(threshold, int) or not holders < 2 * threshold <= 2 * holders:
            raise SecureError(f"secure: a threshold of {threshold!r}, more than half of {holders} are needed")
        if not 2 <= len(keys) <= MOST_NEIGHBOURS:
            raise SecureError(f"secure: {len(keys)} neighbours, from 2 to {MOST_NEIGHBOURS} are needed")
        pair = KeyPair.of(mine.channel)
        everybody = [pair.public + KeyPair.of(mine.masking).public, *(row.tobytes() for row in keys)]
        if len({key[half:][:KEY_BYTES] for key in everybody for half in (0, KEY_BYTES)}) != 2 * holders:
            raise SecureError("secure: a key stands twice among the neighbours'")
        seed = secrets.token_bytes(SECRET_BYTES)
        of_seed, of_key = split(seed, threshold, holders), split(mine.masking, threshold, holders)
        sealed, openings = [], []
        for place, (channel, _) in enumerate(_pairs(keys.tobytes()), start=1):
            try:
                sealing, opening = sealing_keys(pair, channel, mine.session)
            except ValueError:
                raise SecureError("secure: a neighbour's key is none") from None
            sealed.append(ChaCha20Poly1305(sealing).encrypt(_NONCE, of_seed[place] + of_key[place], None))
            openings.append(opening)
        self.secrets = replace(
            mine,
            done="shares",
            seed=seed,
            threshold=threshold,
            neighbours=keys.tobytes(),
            own=of_seed[0],
            opening=b"".join(openings),
        )
        return {
            SEALED: np.frombuffer(b"".join(sealed), np.uint8).reshape(-1, SEALED_BYTES),
            SEED: np.frombuffer(commitment(mine.session, seed), np.uint8),
        }

    def _unmask(self, settings: Mapping[str, Any], sealed: Bytes) -> Arrays:
        mine = self._after("masked", settings)
        neighbours, survivors = _neighbours(mine), _present(settings, mine)
        present = _bits(mine.present)
        if len(sealed) != len(neighbours):
            raise SecureError(f"secure: {len(sealed)} sealed shares of {len(neighbours)} neighbours")
        if not set(survivors) <= set(present):
            raise SecureError("secure: a neighbour is said to be in the sum that could not be in it")
        if len(survivors) + 1 < mine.threshold:
            raise SecureError(
                f"secure: {len(survivors) + 1} of {len(neighbours) + 1} clients are in the sum, "
                f"{mine.threshold} are needed"
            )
        shares = np.zeros((1 + len(neighbours), SHARE_BYTES), np.uint8)
        shares[0] = np.frombuffer(mine.own, np.uint8)
        for k in present:
            key = mine.opening[k * KEY_BYTES : (k + 1) * KEY_BYTES]
            try:
                opened = ChaCha20Poly1305(key).decrypt(_NONCE, sealed[k].tobytes(), None)
            except InvalidTag:
                continue  # whoever sealed it wrongly loses a holder, and nobody else
            half = opened[:SHARE_BYTES] if k in survivors else opened[SHARE_BYTES:]
            shares[1 + k] = np.frombuffer(half, np.uint8)
        self.secrets = None
        return {SHARES: shares}

    def _after(self, step: str, settings: Mapping[str, Any]) -> Secrets:
        """The session's secrets, if `step` is what was done last in it."""
        if self.secrets is None or self.secrets.session != settings.get(SESSION):
            raise SecureError("secure: the keys of this session are gone; the next round makes new ones")
        if self.secrets.done != step:
            raise SecureError(f"secure: after {self.secrets.done} nothing else is answered than what follows")
        return self.secrets


def to_bits(places: Sequence[int]) -> str:
    """Places in a list of neighbours as hexadecimal digits."""
    return f"{sum(1 << place for place in places):x}"


def _bits(text: str) -> list[int]:
    number = int(text, 16) if text.isalnum() else -1
    if number < 0:
        raise ValueError(text)
    return [place for place in range(number.bit_length()) if number >> place & 1]


def _present(settings: Mapping[str, Any], mine: Secrets) -> list[int]:
    """Places of the neighbours whom a message says to be present."""
    text, most = _text(settings, PRESENT), len(_neighbours(mine))
    try:
        places = _bits(text)
    except ValueError:
        raise SecureError(f"secure: {text[:40]!r} says nothing about neighbours") from None
    if places and places[-1] >= most:
        raise SecureError(f"secure: neighbour {places[-1]} of {most}")
    return places


def _neighbours(mine: Secrets) -> list[tuple[bytes, bytes]]:
    return _pairs(mine.neighbours)


def _pairs(keys: bytes) -> list[tuple[bytes, bytes]]:
    """Channel and masking key of each neighbour."""
    starts = range(0, len(keys), 2 * KEY_BYTES)
    return [(keys[s : s + KEY_BYTES], keys[s + KEY_BYTES : s + 2 * KEY_BYTES]) for s in starts]


def _text(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise SecureError(f"secure: {name} is {value!r}, expected up to 64 characters")
    return value


def _bytes(arrays: Arrays, name: str, row: tuple[int, ...]) -> Bytes:
    array = arrays.get(name)
    if array is None or array.dtype != np.uint8 or array.ndim != 1 + len(row) or array.shape[1:] != row:
        raise SecureError(f"secure: {name} is missing or has another shape")
    return array
