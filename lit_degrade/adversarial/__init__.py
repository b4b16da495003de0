"""FOOLS: inputs, changed as little as possible, that a subject does worst on, beside random changes of the same size.

In: a subject and held-out text. Out: changes of embeddings, changed tokens. Never: changes of the weights.
"""
