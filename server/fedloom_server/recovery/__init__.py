"""What a run goes on from after a crash: checkpoints, and the state of everything that remembers."""
