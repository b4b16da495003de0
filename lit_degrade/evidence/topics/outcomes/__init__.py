"""Outcomes: the groups of an experiment along its factor, with the claims that compare them."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.outcomes.figures import outcome_plates

TOPIC = Topic("outcomes", plates=outcome_plates)
