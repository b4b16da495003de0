"""What runs left: records, tables, groups of runs, means over what counts as one observation, and how things are called."""
