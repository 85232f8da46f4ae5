"""What makes a result depend on its arguments alone, whatever ran before and in whatever process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Run with torch's generator seeded and one thread; both are put back afterwards.

    One thread, because the order of floating-point sums, and so the result, depends on their number.
    A model that draws from another generator (numpy's, Python's) is not reproducible.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        # Not torch.manual_seed, which also seeds accelerators, whose generators stay as they were.
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
