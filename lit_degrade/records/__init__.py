"""KEPT: what a run leaves behind.

In: facts, tables, tensors. Out: one folder, written whole or not at all, and its W&B twin. Never: computes a result.
"""
