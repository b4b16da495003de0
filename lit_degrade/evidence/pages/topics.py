"""The topics of a report, in the order in which it shows them."""

from importlib import import_module
from importlib.util import find_spec

from lit_degrade.errors import UserError
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics import (
    adversarial,
    benchmarks,
    bits,
    clusters,
    courses,
    doses,
    effects,
    exchange_rates,
    flatness,
    maps,
    outcomes,
    pruning,
    stability,
    super_weights,
    variants,
)
from lit_degrade.extensions import extensions

TOPICS = (
    outcomes.TOPIC, exchange_rates.TOPIC, flatness.TOPIC, doses.TOPIC, effects.TOPIC, stability.TOPIC, maps.TOPIC,
    super_weights.TOPIC, clusters.TOPIC, bits.TOPIC, adversarial.TOPIC, pruning.TOPIC, benchmarks.TOPIC, variants.TOPIC,
    courses.TOPIC,
)  # fmt: skip
"""The suite's own."""


def all_topics() -> list[Topic]:
    """The suite's own topics, then those of extensions.

    Raises: UserError for a `topic.py` without a TOPIC.
    """
    topics = list(TOPICS)
    for extension in extensions():
        if find_spec(f"{extension.name}.topic"):
            topic = getattr(import_module(f"{extension.name}.topic"), "TOPIC", None)
            if not isinstance(topic, Topic):
                raise UserError(
                    f"'{extension.folder / 'topic.py'}' has no TOPIC: expected an instance of {Topic.__module__}.Topic."
                )
            topics.append(topic)
    return topics
