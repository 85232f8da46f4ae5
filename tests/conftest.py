"""Shared by every test."""

import os

from hypothesis import settings

# Two workers share two cores: one BLAS thread each, and no deadline on a noisy machine.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# The same examples every time: what passes here passes everywhere.
settings.register_profile("fedloom", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("fedloom")
