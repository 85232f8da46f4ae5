"""Seeds derived from the run's one seed, so that no generator's state has to be kept or sent."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD, _WIDE = 2**32 - 1, 2**128 - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645  # PCG64's (O'Neill, 2014)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order: the same on every machine."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded from `parts`."""
    return np.random.default_rng(derive_seed(*parts))


def streams(seeds: Sequence[int]) -> Iterator[np.random.Generator]:
    """`np.random.default_rng` of each seed (64 bits at most), in half the time.

    It is one generator that is set anew: use it up before the next one is asked for.
    """
    bits = np.random.PCG64(0)
    rng = np.random.Generator(bits)
    for high, low, inc_high, inc_low in _entropy(np.array(seeds, np.uint64)).tolist():
        increment = ((inc_high << 64 | inc_low) << 1 | 1) & _WIDE
        state = ((increment + (high << 64 | low)) * _MULTIPLIER + increment) & _WIDE
        inner: Any = {"state": state, "inc": increment}
        bits.state = {"bit_generator": "PCG64", "state": inner, "has_uint32": 0, "uinteger": 0}
        yield rng


def _entropy(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What `np.random.SeedSequence(seed).generate_state(4, np.uint64)` gives for each seed: (N, 4).

    O'Neill's hash (2015, "Developing a seed_seq alternative") with a pool of four words, on all at once.
    """
    constant = 0x43B0D7E5

    def hashed(words: NDArray[np.uint32], factor: int) -> NDArray[np.uint32]:
        nonlocal constant
        words = words ^ np.uint32(constant)
        constant = constant * factor & _WORD
        words = words * np.uint32(constant)
        return words ^ words >> np.uint32(16)

    zeros = np.zeros(len(seeds), np.uint32)
    words = ((seeds & np.uint64(_WORD)).astype(np.uint32), (seeds >> np.uint64(32)).astype(np.uint32))
    pool = [hashed(word, 0x931E8875) for word in (*words, zeros, zeros)]
    for source in range(4):
        for target in range(4):
            if source != target:
                other = np.uint32(0x4973F715) * hashed(pool[source], 0x931E8875)
                mixed = np.uint32(0xCA01F9DD) * pool[target] - other
                pool[target] = mixed ^ mixed >> np.uint32(16)
    constant = 0x8B51F9DD
    found = np.stack([hashed(pool[place % 4], 0x58F38DED) for place in range(8)], 1)
    return np.ascontiguousarray(found, "<u4").view("<u8")
