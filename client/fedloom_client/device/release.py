"""Memory that a process holds and does not need, back to the system."""

import ctypes
import gc
import re
from pathlib import Path

_MADV_PAGEOUT = 21  # Linux 5.4
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r(.)\S+ \S+ \S+ \d+ +(/.*)")


def give_back(library: str) -> None:
    """Free what nobody refers to, let malloc return it, and let go of a library's pages.

    A library's pages are clean copies of its file: those that are needed again are read again. Where the
    system knows less (another libc, an older kernel), less is given back.

    Args:
        library: part of the paths of the library's files.
    """
    gc.collect()
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = _LINE.match(line)
        if found and found[3] == "-" and library in found[4]:
            start, end = int(found[1], 16), int(found[2], 16)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)
