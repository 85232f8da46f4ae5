"""A secret in shares, any `threshold` of which give it back while fewer say nothing about it.

Shamir (1979), "How to share a secret".
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**521 - 1
"""The field: a Mersenne prime, large enough for 64 bytes."""
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Shares (66 bytes) of a secret (32 bytes) at the places 1 to `holders`."""
    first = int.from_bytes(secret, "big")
    polynomial = [first, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(polynomial, place).to_bytes(SHARE_BYTES, "big") for place in range(1, holders + 1)]


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret (32 bytes) of shares by their places, as many as the threshold.

    Raises:
        ValueError: they come to no secret of 32 bytes, so that one of them is wrong.
    """
    places = tuple(sorted(shares))
    total = sum(
        int.from_bytes(shares[place], "big") * weight
        for place, weight in zip(places, _at_zero(places), strict=True)
    )
    try:
        return (total % PRIME).to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise ValueError("shares that do not belong together") from None


def _value(polynomial: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


@lru_cache(maxsize=256)  # where nobody drops out, all secrets have holders at the same places
def _at_zero(places: tuple[int, ...]) -> list[int]:
    """Lagrange's weights at 0 of values at these places."""
    weights = []
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights
