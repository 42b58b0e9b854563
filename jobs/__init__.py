"""What can be done: one file per job, found by name; its docstring is its help text."""
