"""The coordinator's half of secure aggregation."""
