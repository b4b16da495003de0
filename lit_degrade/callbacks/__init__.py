"""WHEN: Lightning callbacks that decide when to measure and what to keep.

In: a trainer and its module. Out: entries of the run record. Never: the arithmetic itself.
"""
