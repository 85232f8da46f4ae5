"""Grids around grids, and a clock that is simulated."""
