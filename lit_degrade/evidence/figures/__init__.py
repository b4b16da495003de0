"""Figures of a section: every run as a point or a line, means with 95 % intervals, legible in greyscale print."""

from lit_degrade.evidence.figures.drawings import Drawing, compose, draw

__all__ = ["Drawing", "compose", "draw"]
