"""Samples, their preprocessing, and how they are cut into shards."""
