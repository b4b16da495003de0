"""Tables of adversarial inputs: what they cost, over runs, and how much less random changes of the same size cost."""

import math
from collections.abc import Callable, Mapping

import pandas as pd

from lit_degrade.adversarial.catalog import ATTACKS, NORMS, SIZE_UNITS, Attack
from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Row, Rows, Table
from lit_degrade.evidence.reading.estimates import Estimate, estimate, finite_or_inf
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.words import rank_in, say
from lit_degrade.evidence.topics.adversarial.rows import TOKENS
from lit_degrade.records.tables import ADVERSARIAL, ADVERSARIAL_TOKENS, DAMAGE

CONTROL = "random"
"""Attack that is the control of the others."""


_MEASURED = ["nats_lost", "argmax_changed"]


def attack_rows(lines: pd.DataFrame, by: list[str], known: Mapping[str, Attack]) -> Rows:
    """What attacks cost at every size, over runs, and how much more than the control of the same run.

    Args:
        lines: of adversarial.csv or adversarial_tokens.csv; of a run the mean over draws counts.
        by: columns that tell sizes apart.
        known: attacks in order.

    Returns: rows with `runs`, and of `nats_lost`, of `argmax_changed` (share of positions) and of the differences `over_random`
        [nats/token] and `argmax_over_random` the mean over runs, its interval, the number of runs that it is of, and how many
        of them have no finite value.
    """
    numbers = lines.assign(nats_lost=finite_or_inf(lines[DAMAGE]))
    numbers["argmax_changed"] = lines.get("argmax_changed", math.nan)
    cells = {key: own.groupby("run_id")[_MEASURED].mean() for key, own in numbers.groupby(["attack", *by])}
    rows: Rows = []
    for key in sorted(cells, key=lambda key: (rank_in(str(key[0]), known), rank_in(str(key[1]), NORMS))):
        own, control = cells[key], cells.get((CONTROL, *key[1:]))
        row: Row = dict(zip(["attack", *by], key, strict=True)) | {"runs": len(own)}
        for name in _MEASURED:
            row |= _over_runs(name, own[name])
        if key[0] != CONTROL and control is not None:
            row |= _over_runs("over_random", _less(own, control, "nats_lost"))
            row |= _over_runs("argmax_over_random", _less(own, control, "argmax_changed"))
        rows.append(row)
    return rows


def _over_runs(name: str, values: pd.Series) -> Row:
    return estimate(values.dropna().to_numpy(dtype=float)).columns(name)


def _less(own: pd.DataFrame, control: pd.DataFrame, name: str) -> pd.Series:
    """Differences to the control in the same run; inf where either is not finite."""
    both = own[[name]].join(control[[name]].add_suffix("_random"), how="inner")
    finite = both.abs().max(axis=1, skipna=False) != math.inf
    return (both[name] - both[f"{name}_random"]).where(finite, math.inf)


_ATTACKED = {"nats_lost": ("lost [nats/token]", 1), "argmax_changed": ("argmax changed [%]", 100)}


_MEANS = (
    "Mean over runs with 95 % Student t interval; of a run the mean over draws counts. Lost: on held-out text. Argmax "
    "changed: share of positions where another token is the likeliest. Over random: difference to random changes of the same "
    "size in the same run."
)


def _adversarial_table(rows: Rows, own: Tables) -> Table:
    def what(it: Row) -> list[str]:
        return [say(it["attack"], ATTACKS), say(it["norm"], NORMS), f"{it['epsilon']:.3g} {say(it['unit'], SIZE_UNITS)}"]

    return _attack_table("Changed embeddings", ["attack", "norm", "size"], rows, what)


def _token_table(rows: Rows, own: Tables) -> Table:
    def what(it: Row) -> list[str]:
        return [say(it["attack"], TOKENS), f"{it['changed']:,.0f}"]

    return _attack_table("Changed tokens", ["attack", "tokens of a sequence"], rows, what)


def _attack_table(title: str, head: list[str], rows: Rows, what: Callable[[Row], list[str]]) -> Table:
    cells = [
        [
            *what(it),
            str(it["runs"]),
            *(Estimate.of(it, name).words(scale) for name, (_, scale) in _ATTACKED.items()),
            Estimate.of(it, "over_random").words(),
        ]
        for it in rows
    ]
    head = [*head, "runs", *(title for title, _ in _ATTACKED.values()), "over random [nats/token]"]
    return Table(title, _MEANS, head, cells, *ANYWHERE)


KINDS = {
    "adversarial": Kind(
        ADVERSARIAL, lambda own: attack_rows(own[ADVERSARIAL], ["norm", "unit", "epsilon"], ATTACKS), _adversarial_table
    ),
    "adversarial_tokens": Kind(
        ADVERSARIAL_TOKENS, lambda own: attack_rows(own[ADVERSARIAL_TOKENS], ["changed"], TOKENS), _token_table
    ),
}
"""Files of a report about adversarial inputs."""
