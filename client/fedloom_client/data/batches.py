"""How an epoch is cut into batches, the same for every trainer."""

from itertools import pairwise

from fedloom_client.data.samples import Indices


def cut(order: Indices, size: int) -> list[Indices]:
    """`order` in batches of `size`; the last may be shorter, but a single example joins the one before.

    Batch norm cannot take the variance of one example, and a lone example's step is mostly noise.
    """
    ends = list(range(size, len(order), size))
    if size > 1 and ends and len(order) - ends[-1] == 1:
        ends.pop()
    # Not np.split, which costs more than a small model's step.
    return [order[start:end] for start, end in pairwise([0, *ends, len(order)])]
