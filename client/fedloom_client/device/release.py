"""Memory that a process holds and does not need, back to the system."""

import ctypes
import gc
import mmap
import re
from pathlib import Path

from fedloom_edge.heap import trim_heap

# A file's code as it is in memory: mapped readable and executable, never written to.
_CODE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \d+ +/")


def give_back() -> None:
    """Free what nobody refers to, let malloc return it, and unmap the pages of libraries' code.

    Code that is run again is mapped again, from the page cache or the file. What malloc can return
    depends on the libc; another than glibc returns nothing here.
    """
    gc.collect()
    trim_heap()
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another libc
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        if found := _CODE.match(line):
            start, end = int(found[1], 16), int(found[2], 16)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
