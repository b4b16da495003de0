"""Clusters: matrices whose scores are alike."""

from functools import partial

from lit_degrade.evidence.drawing.tables import group_tables
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.clusters.figures import cluster_plates
from lit_degrade.evidence.topics.clusters.rows import read_clusters
from lit_degrade.evidence.topics.clusters.tables import KINDS

TOPIC = Topic("clusters", read_clusters, partial(group_tables, kinds=KINDS), cluster_plates)
