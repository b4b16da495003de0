"""Statistics over independent runs: tests, intervals, effect sizes, power, curves over sizes. Nothing here knows of records."""
