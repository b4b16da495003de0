"""Maps: where in a subject the weights that matter are."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.maps.figures import map_plates
from lit_degrade.evidence.topics.maps.rows import read_maps
from lit_degrade.evidence.topics.maps.tables import KINDS

TOPIC = Topic("maps", read_maps, partial(group_tables, kinds=KINDS), map_plates)
