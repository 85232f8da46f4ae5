"""Kills and faults against short runs: the laws that hold however often a run is broken off."""
