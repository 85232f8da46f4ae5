"""Federated algorithms: pure functions over arrays, one a file. Needs numpy only."""
