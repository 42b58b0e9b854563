"""One file per module of the engine, and what only the whole can show."""
