"""INJURY: direct changes of weights, exactly undone.

In: a subject, a method, a target, a level, a seed. Out: edits that know what they changed. Never: measures what broke.
"""
