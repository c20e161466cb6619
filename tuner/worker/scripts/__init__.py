"""Scripts: a command of the worker's own config file, run once for each trial."""
