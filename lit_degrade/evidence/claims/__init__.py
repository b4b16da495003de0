"""Claims as data, the runs on either side of them, and verdicts."""
