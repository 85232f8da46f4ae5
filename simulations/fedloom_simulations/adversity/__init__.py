"""What a federation must stand: attacks, faults and poisoned data, the same for the same seed."""
