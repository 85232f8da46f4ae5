"""Python's garbage collector and a process that imports much before it works."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settling() -> Iterator[None]:
    """Import and set up without collections; what is there afterwards is never looked through again.

    torch and Flower leave some hundred thousand objects that live as long as the process. Collections
    among them took 0.4 of the 3 processor seconds of a small run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
