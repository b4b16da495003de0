"""Tables of single weights that make an activation spike."""

from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Rows, Table
from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.topics.super_weights.rows import confirmed_words
from lit_degrade.records.tables import (
    SPIKES,
    SUPER_WEIGHTS,
)

_OF_WEIGHTS = {
    "value": "value", "z": "z", "output_ratio": "output [ratio]", "input_ratio": "input [ratio]",
    "nats_lost": "lost [nats/token]", "nats_lost_control_mean": "controls, mean [nats/token]",
    "nats_lost_control_max": "controls, worst [nats/token]",
}  # fmt: skip
"""Columns of super_weights.csv that the pages show the means of, and how they are headed."""


def super_weight_rows(own: Tables) -> Rows:
    """Every line that the runs left."""
    return [{str(name): value for name, value in row.items()} for row in own[SUPER_WEIGHTS].to_dict("records")]


def _super_weight_table(rows: Rows, own: Tables) -> Table:
    lines, known = own[SUPER_WEIGHTS], {"True": "yes", "False": "no"}
    lines = lines.reindex(columns=[*dict.fromkeys([*lines, *_OF_WEIGHTS])])
    note = (
        "Single weights that make an activation spike, in order of discovery, then those that were published (Yu et al. 2024) "
        "and not found: means over runs. z: in its matrix. Ratios: of the largest over the median channel. Lost: where the "
        "weight is zeroed, and where those nearest in size are (mean, and the worst). p: by rank among these, one-sided, the "
        "largest of any run."
    )
    shown, runs = [], len({run for table in (lines, own[SPIKES]) if len(table) for run in table["run_id"]})
    for (parameter, row, column), same in lines.groupby(["parameter", "row", "column"], sort=False):
        seen = f"{same['order'].notna().sum()} of {runs} runs"
        cells = [str(parameter), f"{row:.0f}", f"{column:.0f}", seen, *(number(same[name].mean()) for name in _OF_WEIGHTS)]
        published = known.get(str(same["published"].iloc[0]), "")
        shown.append([*cells, number(same["p"].max()), confirmed_words(same["confirmed"]), published])
    head = ["parameter", "row", "column", "found by", *_OF_WEIGHTS.values(), "p", "confirmed", "published"]
    return Table("Super weights", note, head, shown, *ANYWHERE)


KINDS = {"super_weights": Kind(SUPER_WEIGHTS, super_weight_rows, _super_weight_table)}
"""Files of a report about single weights."""
