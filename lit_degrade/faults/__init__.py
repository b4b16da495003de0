"""BITS: what single stored bits do, and which few of them a subject cannot lose.

In: a subject, weights, bits. Out: exact values and losses under flips, patterns of bits. Never: leaves a bit flipped.
"""
