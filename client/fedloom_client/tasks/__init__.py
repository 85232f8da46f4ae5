"""Built-in tasks, each written as a user would write one: one file with one `task`."""
