"""Pruning: what zeroing weights costs, by method and sparsity."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.pruning.figures import pruning_plates
from lit_degrade.evidence.topics.pruning.tables import write_pruning_tables
from lit_degrade.records.tables import PRUNING

TOPIC = Topic("pruning", (PRUNING,), write_pruning_tables, pruning_plates)
