"""Seeds derived from the run's one seed, so that no generator's state has to be kept or sent."""

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order: the same on every machine."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded from `parts`."""
    return np.random.default_rng(derive_seed(*parts))
