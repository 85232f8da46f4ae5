"""Algorithms held to what was published of them: entries are data, one runner runs them all."""
