"""The coordinator: strategies, the round loop, the run store and its reports."""
