"""Bits: what flipping stored bits costs."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.bits.figures import bit_plates
from lit_degrade.evidence.topics.bits.tables import KINDS
from lit_degrade.records.tables import BIT_PATTERNS, BIT_SEARCH, BIT_SENSITIVITY, COLLAPSE

TOPIC = Topic("bits", (BIT_SENSITIVITY, BIT_PATTERNS, BIT_SEARCH, COLLAPSE), partial(group_tables, kinds=KINDS), bit_plates)
