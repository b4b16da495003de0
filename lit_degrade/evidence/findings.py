"""What runs of the newer analyses left in tables: pruning, bits, adversarial inputs, benchmarks, variants side by side."""

import math

import pandas as pd

from lit_degrade.evidence.record_tables import Tables, read_tables
from lit_degrade.records.tables import (
    ADVERSARIAL,
    ADVERSARIAL_TOKENS,
    BENCHMARKS,
    BIT_PATTERNS,
    BIT_SEARCH,
    BIT_SENSITIVITY,
    COLLAPSE,
    DAMAGE,
    PRUNING,
    VARIANTS,
)

FINDINGS = (
    PRUNING, BIT_SENSITIVITY, BIT_PATTERNS, BIT_SEARCH, COLLAPSE, ADVERSARIAL, ADVERSARIAL_TOKENS, BENCHMARKS, VARIANTS,
)  # fmt: skip


def read_findings(rows: pd.DataFrame) -> tuple[Tables, list[str]]:
    """Tables of all runs that the filter leaves, maybe empty; and what is wrong with the files.

    Damage that is not finite, or was not measured, is inf.
    """
    tables: Tables = {}
    cautions = []
    for schema in FINDINGS:
        table, found = read_tables(rows, schema)
        if len(table) and schema.column(DAMAGE):
            table = table.assign(**{DAMAGE: table[DAMAGE].fillna(math.inf)})
        tables[schema] = table
        cautions += found
    return tables, cautions
