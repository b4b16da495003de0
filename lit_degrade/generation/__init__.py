"""SPEAKS: text that a subject writes.

In: a subject, prompts, a seed for each. Out: continuations, batch by batch. Never: judges what was written.
"""
