"""A client's half of secure aggregation: the coordinator learns the sum of updates, and none of them."""
