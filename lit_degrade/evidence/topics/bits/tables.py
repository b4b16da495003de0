"""Tables of flipped bits: what they cost, and how many make a subject collapse."""

import math

import numpy as np
import pandas as pd

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Row, Rows, Table
from lit_degrade.evidence.numbers.statistics import Interval
from lit_degrade.evidence.reading.estimates import Estimate, bracketed, estimate, finite_or_inf, number
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.words import metric_of, ordered, rank_in, say, words
from lit_degrade.evidence.topics.bits.rows import CLASSES, pattern_rows
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS
from lit_degrade.records.tables import BIT_PATTERNS, BIT_SENSITIVITY, COLLAPSE, DAMAGE

SEARCH = "search"
"""Arm of flips that others are compared with."""
COSTLY = 0.02
"""Nats per token from which on a flip is counted as costly: the smallest difference that matters."""


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
    rows: Rows = []
    for key in keys:
        own = placed[(placed[by] == list(key)).all(axis=1)]
        what = dict(zip(by, key, strict=True))
        rows.append(what | {"bit": None} | _flips(own))
        bits = sorted(map(int, own["bit"].unique()), reverse=True)
        rows += [what | {"bit": bit} | _flips(own[own["bit"] == bit]) for bit in bits]
    return rows


def _place_of_bits(key: tuple[str, str, str]) -> tuple[str, int, int]:
    """Order of formats, choices and classes of bits."""
    stored, choice, part = key
    return stored, rank_in(choice, METRICS), CLASSES.index(part) if part in CLASSES else len(CLASSES)


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
        row |= estimate(values.to_numpy(dtype=float)).columns(name)
    return row | {"worst": finite.max() if len(finite) else math.nan}


def _bit_table(rows: Rows, own: Tables) -> Table:
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
            *(Estimate.of(it, name).words(100) for name in ("not_finite", "costly", "out_of_range")),
            Estimate.of(it, "median").words(), number(it["worst"]),
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
    rows: Rows = []
    for constraint in ordered(set(lines["constraint"]), CONSTRAINTS):
        own = lines[lines["constraint"] == constraint]
        runs = {arm: _middles(same) for arm, same in own.groupby("arm")}
        for arm in ordered(set(own["arm"]), ARMS):
            row: Row = {"constraint": constraint, "arm": arm} | _range(own[own["arm"] == arm])
            rows.append(row | (_factor(runs[arm], runs[SEARCH]) if SEARCH in runs and arm != SEARCH else {}))
    return rows


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


def _collapse_table(rows: Rows, own: Tables) -> Table:
    note = (
        "Flipped bits after which a subject has collapsed: median [least, most] over runs and draws; ≥: not collapsed within "
        "as many. Factor: flips of a control over those of the search in the same run, geometric mean over runs with 95 % "
        "Student t interval on the log scale; ≥, ≤: a bound, since the control, or the search, did not collapse in some "
        "runs; not known where both happened."
    )
    cells = [
        [
            say(it["constraint"], CONSTRAINTS), say(it["arm"], ARMS), _flips_words(it),
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


KINDS = {
    "bits": Kind(BIT_SENSITIVITY, lambda own: bit_rows(own[BIT_SENSITIVITY]), _bit_table),
    "bit_patterns": Kind(BIT_PATTERNS, lambda own: _pattern_rows(own[BIT_PATTERNS])),
    "collapse": Kind(COLLAPSE, lambda own: collapse_rows(own[COLLAPSE]), _collapse_table),
}
"""Files of a report about bits."""
