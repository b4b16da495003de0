"""Whether runs agree on a super weight, in words."""

from collections.abc import Sequence

import pandas as pd

from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, read_counted
from lit_degrade.records.tables import SPIKES, SUPER_WEIGHTS


def confirmed_words(sure: pd.Series) -> str:
    """Whether the runs that found a weight confirm that it matters."""
    if sure.all():
        return "confirmed"
    return f"confirmed in {sure.sum()} of {len(sure)}" if sure.any() else "not confirmed"


def read_super_weights(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Super weights and spikes of activations, and what is wrong with the files (see `read_counted`)."""
    tables, cautions = read_counted(rows, (SUPER_WEIGHTS, SPIKES))
    return tables, cautions
