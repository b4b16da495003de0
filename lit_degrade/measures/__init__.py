"""SEEN: fixed measurements on fixed data.

In: a subject and tokens. Out: numbers with units. Never: changes a weight or writes a file.
"""
