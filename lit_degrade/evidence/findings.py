"""What runs of the newer analyses left in tables: pruning, bits, adversarial inputs, benchmarks, variants side by side."""

import math

import pandas as pd

from lit_degrade.evidence.doses import DAMAGE
from lit_degrade.evidence.record_tables import Layout, read_tables
from lit_degrade.records.paths import (
    ADVERSARIAL,
    ADVERSARIAL_TOKENS,
    BENCHMARKS,
    BIT_PATTERNS,
    BIT_SEARCH,
    BIT_SENSITIVITY,
    COLLAPSE,
    PRUNING,
    VARIANTS,
)

LAYOUTS = (
    Layout(
        PRUNING, ("parameter", "component", "method"), ("weights", "zeros", "sparsity"),
        ("depth", "norm", "norm_of_change", "reconstruction_error"), (),
        key=("parameter", "component"), labels=("scope", "pattern", "structure"),
    ),
    Layout(
        BIT_SENSITIVITY, ("parameter", "component", "choice", "format", "bit_class"), ("index", "bit"),
        ("depth", "value", "value_flipped", DAMAGE), ("in_range",),
        key=("parameter", "index", "bit"),
    ),
    Layout(
        BIT_PATTERNS, ("parameter", "component", "format", "bit_class"), ("bit", "ones", "entropy"), ("depth",), (),
        key=("parameter", "component", "bit"),
    ),
    Layout(
        BIT_SEARCH, ("constraint", "arm"), ("draw", "flip"), ("depth", "bit", "predicted", "token_accuracy", DAMAGE),
        ("collapsed",),
        key=("constraint", "arm", "draw", "flip"), labels=("parameter", "component", "bit_class"),
    ),
    Layout(
        COLLAPSE, ("constraint", "arm"), ("draw", "flips", "budget", "threshold"), (), ("collapsed",),
        key=("constraint", "arm", "draw"),
    ),
    Layout(
        ADVERSARIAL, ("attack", "norm", "unit"), ("epsilon", "draw"), ("largest", "token_accuracy", DAMAGE), (),
        key=("attack", "norm", "epsilon", "draw"),
    ),
    Layout(
        ADVERSARIAL_TOKENS, ("attack",), ("changed", "draw"), ("token_accuracy", DAMAGE), (),
        key=("attack", "changed", "draw"),
    ),
    Layout(
        BENCHMARKS, ("variant", "benchmark", "metric", "source"), ("level_index", "repetition", "items"),
        ("level", "value", "standard_error"), (),
        key=("variant", "level_index", "repetition", "benchmark", "metric", "source"), labels=("method", "target"),
    ),
    Layout(
        VARIANTS, ("variant", "kind"), (), ("sparsity", "relative_norm", "token_accuracy", DAMAGE), (),
        key=("variant",), labels=("answer",),
    ),
)  # fmt: skip


def read_findings(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Tables of all runs that the filter leaves, by the name of their file, maybe empty; and what is wrong with the files.

    Damage that is not finite, or was not measured, is inf.
    """
    tables, cautions = {}, []
    for layout in LAYOUTS:
        table, found = read_tables(rows, layout)
        if len(table) and DAMAGE in layout.maybe:
            table = table.assign(**{DAMAGE: table[DAMAGE].fillna(math.inf)})
        tables[layout.file] = table
        cautions += found
    return tables, cautions
