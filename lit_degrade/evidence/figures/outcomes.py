"""How outcomes and conditions are written on a figure: labels, units, and names in plain words."""

import re
from typing import NamedTuple


class Outcome(NamedTuple):
    """How an outcome is written on an axis."""

    label: str
    unit: str
    scale: float = 1.0
    """what the recorded value is multiplied by"""
    note: str = ""
    """what its sign means, if that is not plain"""

    @property
    def axis(self) -> str:
        """Label with unit."""
        return f"{self.label} [{self.unit}]" + (f"\n({self.note})" if self.note else "")


_NATS, _PERCENT = "nats/token", "%"
OUTCOMES = {
    "log_perplexity_ratio": Outcome("log perplexity ratio", _NATS),
    "reported_log_perplexity_ratio": Outcome("log perplexity ratio, as reported", _NATS),
    "nats_per_token": Outcome("probe loss", _NATS),
    "kl_from_intact": Outcome("KL divergence from the intact subject", _NATS),
    "kl_from_attacked": Outcome("KL divergence from the attacked subject", _NATS),
    "perplexity_increase": Outcome("increase of perplexity", _PERCENT, 100),
    "rank_reduction": Outcome("effective rank reduction", _PERCENT, 100, "negative: rank rose"),
    "reported_rank_reduction": Outcome("effective rank reduction, as reported", _PERCENT, 100, "negative: rank rose"),
    "rank_change_absolute": Outcome("absolute change of effective rank", _PERCENT, 100),
    "reported_rank_change_absolute": Outcome("absolute change of effective rank, as reported", _PERCENT, 100),
    "effective_rank": Outcome("effective rank", "directions"),
    "recovery": Outcome("recovery of nats per token", _PERCENT, 100),
    "recovery_rank": Outcome("recovery of effective rank", _PERCENT, 100),
    "null_energy": Outcome("gradient energy in the null space", "share"),
    "amplification": Outcome("amplification of flat directions", "ratio"),
    "update_norm_mean": Outcome("mean length of an update", "L2 norm of weights"),
    "path_length": Outcome("length of the path of weights", "L2 norm of weights"),
    "displacement": Outcome("displacement of weights", "L2 norm of weights"),
    "drift": Outcome("drift of weights", "relative L2 norm"),
}


def outcome_of(name: str) -> Outcome:
    """How an outcome is written; what is not listed is shown as it was recorded."""
    return OUTCOMES.get(name, Outcome(words(name), "as recorded"))


def words(name: str) -> str:
    """A name as a reader would write it."""
    return re.sub(r"(?<=[a-z])\.(?=[a-z])", " ", name.replace("_", " "))


def sentence(text: str) -> str:
    """A text with a capital."""
    return text[:1].upper() + text[1:]
