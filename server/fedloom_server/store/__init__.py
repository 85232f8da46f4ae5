"""The run store: one SQLite database and content-addressed arrays in a run's folder."""
