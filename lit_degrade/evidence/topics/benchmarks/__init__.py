"""Benchmarks: how many items subjects and variants get right."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.benchmarks.figures import benchmark_plates
from lit_degrade.evidence.topics.benchmarks.tables import write_benchmark_tables
from lit_degrade.records.tables import BENCHMARKS

TOPIC = Topic("benchmarks", (BENCHMARKS,), write_benchmark_tables, benchmark_plates)
