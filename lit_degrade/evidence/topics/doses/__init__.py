"""Doses: what each level of a perturbation did."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.doses.figures import dose_plates
from lit_degrade.evidence.topics.doses.rows import read_doses
from lit_degrade.evidence.topics.doses.tables import write_dose_tables

TOPIC = Topic("doses", read_doses, write_dose_tables, dose_plates)
