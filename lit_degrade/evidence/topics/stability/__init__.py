"""Stability: how far rankings of weights agree."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.stability.figures import stability_plates
from lit_degrade.evidence.topics.stability.rankings import read_stability
from lit_degrade.evidence.topics.stability.tables import write_stability_tables

TOPIC = Topic("stability", read_stability, write_stability_tables, stability_plates)
