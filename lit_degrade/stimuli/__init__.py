"""READS: the stimuli that a subject is trained on.

In: a tokenizer, a subject, a generator. Out: stimulus tensors. Never: trains or measures anything.
"""
