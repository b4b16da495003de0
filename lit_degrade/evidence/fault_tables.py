"""Tables of flipped bits and of adversarial inputs: what they cost, over runs, and how much less their controls cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.bits import CLASSES, finite_or_inf, pattern_rows, say
from lit_degrade.evidence.chapters import Table, bracketed, number
from lit_degrade.evidence.doses import Estimate, estimate
from lit_degrade.evidence.group_tables import ANYWHERE, Rows, write_group_tables
from lit_degrade.evidence.map_tables import estimate_columns
from lit_degrade.evidence.outcomes import (
    ATTACKS,
    CONSTRAINTS,
    FLIP_ARMS,
    METRICS,
    NORMS,
    TOKEN_ATTACKS,
    UNITS,
    metric_of,
    words,
)
from lit_degrade.evidence.record_tables import of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import ordered
from lit_degrade.evidence.statistics import Interval
from lit_degrade.records.tables import ADVERSARIAL, ADVERSARIAL_TOKENS, BIT_PATTERNS, BIT_SENSITIVITY, COLLAPSE, DAMAGE, Schema

Row = dict[str, Any]
COSTLY = 0.02
"""Nats per token from which on a flip is counted as costly: the smallest difference that matters."""
SEARCH, CONTROL = "search", "random"
"""Arm of flips that others are compared with, and attack that is the control of the others."""
_MEASURED = ["nats_lost", "argmax_changed"]


def write_fault_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_bits.csv, NAME_bit_patterns.csv, NAME_collapse.csv, NAME_adversarial.csv and NAME_adversarial_tokens.csv.

    Args:
        section: of a report; a file that would have no line is not written.
        folder: where to.

    Returns: tables for the pages.
    """

    def of_group(
        source: Schema, make: Callable[..., Rows], show: Callable[..., Table] | None, runs: Sequence[str]
    ) -> tuple[Rows, Table | None]:
        own = of_runs(section.table(source), runs)
        made = make(own) if len(own) else []
        return made, show(made) if made and show else None

    return write_group_tables(section, folder, {kind: partial(of_group, *how) for kind, how in _KINDS.items()})


def bit_rows(lines: pd.DataFrame) -> Rows:
    """What single flips cost, for every format, choice of weights and class of bits, and of each class for every bit.

    Args:
        lines: of bit_sensitivity.csv; a loss that is not finite counts as the largest.

    Returns: rows with `runs`, `flips`, and over runs the mean with its interval of `not_finite` and of `costly` (shares of the
        flips of a run; the latter of those that cost more than COSTLY, or have no finite loss), of `out_of_range` (share) and
        of the `median` loss; and `worst`, the largest finite loss of any flip. `bit` is None in rows about a whole class.
    """
    placed = lines.assign(lost=finite_or_inf(lines[DAMAGE]))
    by = ["format", "choice", "bit_class"]
    keys = sorted(placed[by].drop_duplicates().itertuples(index=False, name=None), key=_place_of_bits)
    found: Rows = []
    for key in keys:
        own = placed[(placed[by] == list(key)).all(axis=1)]
        what = dict(zip(by, key, strict=True))
        found.append(what | {"bit": None} | _flips(own))
        bits = sorted(map(int, own["bit"].unique()), reverse=True)
        found += [what | {"bit": bit} | _flips(own[own["bit"] == bit]) for bit in bits]
    return found


def _place_of_bits(key: tuple[str, str, str]) -> tuple[str, int, int]:
    """Order of formats, choices and classes of bits."""
    stored, choice, part = key
    return stored, _rank(choice, METRICS), CLASSES.index(part) if part in CLASSES else len(CLASSES)


def _rank(name: str, known: Mapping[str, str]) -> int:
    """Place in a catalogue; what it lacks comes last."""
    return list(known).index(name) if name in known else len(known)


def _flips(lines: pd.DataFrame) -> Row:
    """What some flips cost."""
    runs = lines.groupby("run_id", sort=False)
    lost, finite = runs["lost"], lines.loc[np.isfinite(lines["lost"]), "lost"]
    row: Row = {"runs": runs.ngroups, "flips": len(lines)}
    shares = {
        "not_finite": lost.agg(lambda values: np.isinf(values).mean()),
        "costly": lost.agg(lambda values: (values > COSTLY).mean()),
        "out_of_range": 1 - runs["in_range"].mean(),
        "median": lost.agg(lambda values: np.median(values.to_numpy(dtype=float))),
    }
    for name, values in shares.items():
        row |= estimate_columns(name, estimate(values.to_numpy(dtype=float)))
    return row | {"worst": finite.max() if len(finite) else math.nan}


def _bit_table(rows: Rows) -> Table:
    note = (
        "Flips of one stored bit of one weight each, by the class of the bit and what chose the weights; losses in nats per "
        "token on held-out text. Shares and medians: mean over runs with 95 % Student t interval. Costly: more than "
        f"{COSTLY:g} nats, or not finite. Out of range: the flipped weight is not finite, or larger than any of its tensor. "
        "Worst: the largest finite loss of any flip. Each bit has its lines in the file."
    )
    head = ["format", "weights by", "class", "flips", "not finite [%]", f"over {COSTLY:g} nats [%]", "out of range [%]"]
    cells = [
        [
            words(it["format"]), metric_of(it["choice"]), words(it["bit_class"]), f"{it['flips']:,}",
            *(_said(it, name, 100) for name in ("not_finite", "costly", "out_of_range")),
            _said(it, "median"), number(it["worst"]),
        ]
        for it in rows if it["bit"] is None
    ]  # fmt: skip
    return Table("What a flipped bit costs", note, [*head, "median [nats/token]", "worst [nats/token]"], cells, *ANYWHERE)


def _pattern_rows(lines: pd.DataFrame) -> Rows:
    """How often every bit is set."""
    return [{str(name): value for name, value in row.items()} for row in pattern_rows(lines).to_dict("records")]


def collapse_rows(lines: pd.DataFrame) -> Rows:
    """Flips to a collapse for every constraint and arm, and how many times as many as the search of the same run takes.

    Args:
        lines: of flips_to_collapse.csv.

    Returns: rows with `runs`, `draws`, `not_collapsed` (draws), `least`, `median` and `most` flips over runs and draws, where
        those that did not collapse count as their budget, and `median_not_collapsed` where the median is of these; `factor`:
        median of an arm's draws over that of the search, geometric mean over runs with 95 % Student t interval on the log
        scale, of the `factor_n` runs that have both; `factor_at_least` and `factor_at_most`: runs whose factor is a bound,
        since the arm or the search did not collapse.
    """
    found: Rows = []
    for constraint in ordered(set(lines["constraint"]), CONSTRAINTS):
        own = lines[lines["constraint"] == constraint]
        runs = {arm: _middles(same) for arm, same in own.groupby("arm")}
        for arm in ordered(set(own["arm"]), FLIP_ARMS):
            row: Row = {"constraint": constraint, "arm": arm} | _range(own[own["arm"] == arm])
            found.append(row | (_factor(runs[arm], runs[SEARCH]) if SEARCH in runs and arm != SEARCH else {}))
    return found


def _range(lines: pd.DataFrame) -> Row:
    flips = lines["flips"]
    late = float(np.median(np.where(lines["collapsed"], flips, np.inf))) == math.inf
    row: Row = {"runs": lines["run_id"].nunique(), "draws": len(lines), "not_collapsed": int((~lines["collapsed"]).sum())}
    return row | {"least": flips.min(), "median": flips.median(), "most": flips.max(), "median_not_collapsed": late}


def _middles(lines: pd.DataFrame) -> pd.DataFrame:
    """For every run the median of its draws, those that did not collapse at their budget, and whether it is of these."""
    runs = lines.groupby("run_id")
    return pd.DataFrame({"flips": runs["flips"].median(), "late": runs["collapsed"].mean() <= 0.5})


def _factor(arm: pd.DataFrame, search: pd.DataFrame) -> Row:
    """How many times as many flips an arm takes as the search of the same run."""
    both = arm.join(search.add_suffix("_search"), how="inner")
    both = both[(both["flips"] > 0) & (both["flips_search"] > 0)]
    it = estimate(np.log((both["flips"] / both["flips_search"]).to_numpy(dtype=float)))
    ends = {"factor_low": math.exp(it.interval.low), "factor_high": math.exp(it.interval.high)}
    row: Row = {"factor": math.exp(it.mean), **ends}
    row |= {"factor_n": it.n, "factor_at_least": int(both["late"].sum()), "factor_at_most": int(both["late_search"].sum())}
    return row


def _collapse_table(rows: Rows) -> Table:
    note = (
        "Flipped bits after which a subject has collapsed: median [least, most] over runs and draws; ≥: not collapsed within "
        "as many. Factor: flips of a control over those of the search in the same run, geometric mean over runs with 95 % "
        "Student t interval on the log scale; ≥, ≤: a bound, since the control, or the search, did not collapse in some "
        "runs; not known where both happened."
    )
    cells = [
        [
            say(it["constraint"], CONSTRAINTS), say(it["arm"], FLIP_ARMS), _flips_words(it),
            f"{it['not_collapsed']} of {it['draws']}", _factor_words(it),
        ]
        for it in rows
    ]  # fmt: skip
    head = ["constraint", "bits by", "flips to collapse", "not collapsed", "times the search's"]
    return Table("Flips to collapse", note, head, cells, *ANYWHERE)


def _flips_words(it: Row) -> str:
    bound = "≥ " if it["median_not_collapsed"] else ""
    return f"{bound}{it['median']:,.4g} [{it['least']:,.4g}, {it['most']:,.4g}]"


def _factor_words(it: Row) -> str:
    if not it.get("factor_n"):
        return ""
    bounds = ["≥"] * bool(it["factor_at_least"]) + ["≤"] * bool(it["factor_at_most"])
    said = bracketed(it["factor"], Interval(it["factor_low"], it["factor_high"]))
    return "not known" if len(bounds) > 1 else " ".join([*bounds, said])


def attack_rows(lines: pd.DataFrame, by: list[str], known: Mapping[str, str]) -> Rows:
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
    found: Rows = []
    for key in sorted(cells, key=lambda key: (_rank(str(key[0]), known), _rank(str(key[1]), NORMS))):
        own, control = cells[key], cells.get((CONTROL, *key[1:]))
        row: Row = dict(zip(["attack", *by], key, strict=True)) | {"runs": len(own)}
        for name in _MEASURED:
            row |= _over_runs(name, own[name])
        if key[0] != CONTROL and control is not None:
            row |= _over_runs("over_random", _less(own, control, "nats_lost"))
            row |= _over_runs("argmax_over_random", _less(own, control, "argmax_changed"))
        found.append(row)
    return found


def _over_runs(name: str, values: pd.Series) -> Row:
    return estimate_columns(name, estimate(values.dropna().to_numpy(dtype=float)))


def _less(own: pd.DataFrame, control: pd.DataFrame, name: str) -> pd.Series:
    """Differences to the control in the same run; inf where either is not finite."""
    both = own[[name]].join(control[[name]].add_suffix("_random"), how="inner")
    finite = both.abs().max(axis=1, skipna=False) != math.inf
    return (both[name] - both[f"{name}_random"]).where(finite, math.inf)


def _adversarial_rows(lines: pd.DataFrame) -> Rows:
    return attack_rows(lines, ["norm", "unit", "epsilon"], ATTACKS)


def _token_rows(lines: pd.DataFrame) -> Rows:
    return attack_rows(lines, ["changed"], TOKEN_ATTACKS)


_ATTACKED = {"nats_lost": ("lost [nats/token]", 1), "argmax_changed": ("argmax changed [%]", 100)}
_MEANS = (
    "Mean over runs with 95 % Student t interval; of a run the mean over draws counts. Lost: on held-out text. Argmax "
    "changed: share of positions where another token is the likeliest. Over random: difference to random changes of the same "
    "size in the same run."
)


def _adversarial_table(rows: Rows) -> Table:
    def what(it: Row) -> list[str]:
        return [say(it["attack"], ATTACKS), say(it["norm"], NORMS), f"{it['epsilon']:.3g} {say(it['unit'], UNITS)}"]

    return _attack_table("Changed embeddings", ["attack", "norm", "size"], rows, what)


def _token_table(rows: Rows) -> Table:
    def what(it: Row) -> list[str]:
        return [say(it["attack"], TOKEN_ATTACKS), f"{it['changed']:,.0f}"]

    return _attack_table("Changed tokens", ["attack", "tokens of a sequence"], rows, what)


def _attack_table(title: str, head: list[str], rows: Rows, what: Callable[[Row], list[str]]) -> Table:
    cells = [
        [
            *what(it),
            str(it["runs"]),
            *(_said(it, name, scale) for name, (_, scale) in _ATTACKED.items()),
            _said(it, "over_random"),
        ]
        for it in rows
    ]
    head = [*head, "runs", *(title for title, _ in _ATTACKED.values()), "over random [nats/token]"]
    return Table(title, _MEANS, head, cells, *ANYWHERE)


def _said(it: Row, name: str, scale: float = 1.0) -> str:
    """A mean with its interval, and how many of its values are not finite; nothing where it is of none."""
    if not it.get(f"{name}_n"):
        return ""
    found = Estimate(it[f"{name}_n"], it[name], Interval(it[f"{name}_low"], it[f"{name}_high"]), it[f"{name}_not_finite"])
    mean = bracketed(scale * found.mean, Interval(scale * found.interval.low, scale * found.interval.high))
    return ", ".join(filter(None, [mean, f"{found.diverged} not finite" if found.diverged else ""]))


_KINDS: dict[str, tuple[Schema, Callable[[pd.DataFrame], Rows], Callable[[Rows], Table] | None]] = {
    "bits": (BIT_SENSITIVITY, bit_rows, _bit_table),
    "bit_patterns": (BIT_PATTERNS, _pattern_rows, None),
    "collapse": (COLLAPSE, collapse_rows, _collapse_table),
    "adversarial": (ADVERSARIAL, _adversarial_rows, _adversarial_table),
    "adversarial_tokens": (ADVERSARIAL_TOKENS, _token_rows, _token_table),
}
"""Kind -> file that it is from, rows of its CSV, and its table of the pages."""
