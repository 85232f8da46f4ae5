"""What trains simulated clients: one after the other, stacked, in worker processes, or on Ray."""
