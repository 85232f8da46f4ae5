"""Simulated federations: benchmarks, each comparing within one run."""
