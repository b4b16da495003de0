"""Variants: one subject side by side with what damage made of it."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.variants.figures import variant_plates
from lit_degrade.evidence.topics.variants.tables import write_variant_tables
from lit_degrade.records.tables import VARIANTS

TOPIC = Topic("variants", (VARIANTS,), write_variant_tables, variant_plates)
