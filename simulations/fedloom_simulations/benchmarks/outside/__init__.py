"""Other simulators in environments of their own: each file is a script that imports nothing of fedloom."""
