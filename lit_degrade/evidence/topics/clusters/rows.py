"""How clusters of matrices were perturbed, in words."""

from collections.abc import Sequence

import pandas as pd

from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, bounded, read_counted
from lit_degrade.evidence.reading.words import method_of
from lit_degrade.records.tables import CLUSTER_EFFECTS, CLUSTERS


def effect_words(draws: pd.DataFrame) -> pd.Series:
    """How clusters were perturbed, of every line."""
    ways = zip(draws["method"], draws["level"], draws["k"], strict=True)
    words_of = [f"{method_of(method).label} (level {level:g}) of {k:,.0f} weights" for method, level, k in ways]
    return pd.Series(words_of, draws.index)


def read_clusters(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Clusters of matrices and what perturbing them costs, and what is wrong with the files (see `read_counted`)."""
    tables, cautions = read_counted(rows, (CLUSTERS, CLUSTER_EFFECTS))
    return tables | {CLUSTERS: bounded(tables[CLUSTERS])}, cautions
