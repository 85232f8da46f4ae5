"""What a device does in a round, chosen from what was measured on it."""
