"""Adversarial inputs: what small changes of the input cost."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.adversarial.figures import adversarial_plates
from lit_degrade.evidence.topics.adversarial.tables import KINDS
from lit_degrade.records.tables import ADVERSARIAL, ADVERSARIAL_TOKENS

TOPIC = Topic("adversarial", (ADVERSARIAL, ADVERSARIAL_TOKENS), partial(group_tables, kinds=KINDS), adversarial_plates)
