"""Matrix products against torch autograd."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LAW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


@LAW
@given(
    m=sizes, k=sizes, n=sizes, flips=st.tuples(st.booleans(), st.booleans()), c=st.integers(0, 3), seed=seeds
)
def test_gemm_in_every_orientation(agree, m, k, n, flips, c, seed):
    a, b = normal(seed, (k, m) if flips[0] else (m, k)), normal(seed + 1, (n, k) if flips[1] else (k, n))
    feeds = {"a": a, "b": b} | ({"c": normal(seed + 2, [(n,), (m, 1), (m, n)][c - 1])} if c else {})

    def function(a, b, *c):
        product = 0.5 * (a.T if flips[0] else a) @ (b.T if flips[1] else b)
        return product + 2.0 * c[0] if c else product

    agree(function, "Gemm", feeds, transA=int(flips[0]), transB=int(flips[1]), alpha=0.5, beta=2.0)


@LAW
@given(
    batch=st.lists(sizes, max_size=2), keep=st.tuples(st.booleans(), st.booleans()),
    cut=st.tuples(st.integers(0, 2), st.integers(0, 2)), m=sizes, k=sizes, n=sizes, seed=seeds,
)  # fmt: skip
def test_matmul_with_batches_that_broadcast(agree, batch, keep, cut, m, k, n, seed):
    left, right = (
        [size if kept else 1 for size in batch][min(c, len(batch)) :]
        for kept, c in zip(keep, cut, strict=True)
    )
    agree(torch.matmul, "MatMul", {"a": normal(seed, (*left, m, k)), "b": normal(seed + 1, (*right, k, n))})


@LAW
@given(batch=st.lists(sizes, max_size=2), k=sizes, n=sizes, seed=seeds)
def test_matmul_with_vectors(agree, batch, k, n, seed):
    vector = normal(seed, (k,))
    agree(torch.matmul, "MatMul", {"a": normal(seed + 1, (*batch, n, k)), "b": vector})
    agree(torch.matmul, "MatMul", {"a": vector, "b": normal(seed + 1, (*batch, k, n))})
    agree(torch.matmul, "MatMul", {"a": vector, "b": normal(seed + 2, (k,))})
