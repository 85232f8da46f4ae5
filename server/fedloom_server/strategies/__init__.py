"""Strategies: Flower's by name, our own, and how updates reach them."""
