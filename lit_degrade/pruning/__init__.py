"""PRUNE: weights set to zero for good, one by one, in patterns, or in whole heads, neurons and layers.

In: a subject, settings, calibration text. Out: the same subject with exactly that share of zeros, and what it cost by matrix.
Never: files.
"""
