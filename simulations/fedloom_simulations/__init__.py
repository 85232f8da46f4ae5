"""Simulated federations on one machine, and their benchmarks."""
