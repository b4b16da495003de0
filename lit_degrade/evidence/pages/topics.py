"""The topics of a report, in the order in which it shows them."""

from lit_degrade.evidence.topics import (
    adversarial,
    benchmarks,
    bits,
    clusters,
    courses,
    doses,
    effects,
    exchange_rates,
    maps,
    outcomes,
    pruning,
    stability,
    super_weights,
    variants,
)

TOPICS = (
    outcomes.TOPIC, exchange_rates.TOPIC, doses.TOPIC, effects.TOPIC, stability.TOPIC, maps.TOPIC, super_weights.TOPIC,
    clusters.TOPIC, bits.TOPIC, adversarial.TOPIC, pruning.TOPIC, benchmarks.TOPIC, variants.TOPIC, courses.TOPIC,
)  # fmt: skip
