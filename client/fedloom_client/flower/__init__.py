"""A node behind Flower's messages."""
