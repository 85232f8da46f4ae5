"""The C library's heap."""

import ctypes
from contextlib import suppress


def trim_heap() -> None:
    """Give back to the system what malloc holds and nobody needs, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
