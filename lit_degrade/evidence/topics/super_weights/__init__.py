"""Super weights: single weights that carry a subject."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.super_weights.figures import super_weight_plates
from lit_degrade.evidence.topics.super_weights.rows import read_super_weights
from lit_degrade.evidence.topics.super_weights.tables import KINDS

TOPIC = Topic("super_weights", read_super_weights, partial(group_tables, kinds=KINDS), super_weight_plates)
