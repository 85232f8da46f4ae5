"""Differential privacy: what is released with noise, what that costs, and when a budget is spent."""
