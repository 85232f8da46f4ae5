"""The guard: which updates are refused, and which clients are left out."""
