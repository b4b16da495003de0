"""WHICH: weights that matter, by scores, rankings and their controls.

In: a subject and calibration text. Out: scores, chosen weights, agreement, clusters, super weights. Never: changes that stay.
"""
