"""MANY: a W&B sweep file without a W&B server.

In: a sweep file. Out: its command lines, each run once, and what became of them. Never: what a run does.
"""
