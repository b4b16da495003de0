"""Flatness: what changes and training steps inside parts of weight space cost, and the curvature there."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.flatness.figures import flatness_plates
from lit_degrade.evidence.topics.flatness.rows import read_flatness
from lit_degrade.evidence.topics.flatness.tables import KINDS

TOPIC = Topic("flatness", read_flatness, partial(group_tables, kinds=KINDS), flatness_plates)
