"""Effects: what perturbing the most critical weights costs beyond their controls."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.effects.figures import effect_plates
from lit_degrade.evidence.topics.effects.rows import read_effects
from lit_degrade.evidence.topics.effects.tables import write_effect_tables

TOPIC = Topic("effects", read_effects, write_effect_tables, effect_plates)
