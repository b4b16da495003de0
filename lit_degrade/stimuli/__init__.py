"""READS: text sources and the stimuli that a subject is trained on.

In: a tokenizer, a subject, a generator. Out: token streams and stimulus tensors. Never: trains or measures anything.
"""
