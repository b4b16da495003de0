"""Tables of flatness: what changes inside each part of weight space cost, and the curvature along them."""

from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Rows, Table
from lit_degrade.evidence.reading.estimates import Estimate, number
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.words import words
from lit_degrade.evidence.topics.flatness.rows import CURVATURE, SIZE, certificate_rows, flatness_rows
from lit_degrade.records.tables import CERTIFICATES, DAMAGE, FLATNESS

_MEANS = (
    "Mean over runs with 95 % Student t interval; of a run the mean over its draws counts. Over whole: this mean / that of the "
    "whole space"
)


def _flatness_table(rows: Rows, own: Tables) -> Table:
    note = (
        f"What random changes of the block matrices cost, by the part of weight space that they are drawn from. {_MEANS} at "
        "the same size. Size: norm of the change over that of the weights. Lost: on held-out text."
    )
    cells = [
        [it["part"], f"{it[SIZE]:g}", str(it["runs"]), Estimate.of(it, DAMAGE).words(), number(it["over_whole"])] for it in rows
    ]
    head = ["part", "size [relative]", "runs", "lost [nats/token]", "over whole"]
    return Table("What changes cost", note, head, cells, *ANYWHERE)


def _certificate_table(rows: Rows, own: Tables) -> Table:
    note = (
        "Curvature of the loss along random unit vectors v of each part of weight space: H is the Hessian on the text, and λ "
        f"the eigenvalue of the largest size on the calibration text. {_MEANS} on the same text."
    )
    cells = [
        [it["part"], words(it["text"]), str(it["runs"])]
        + [cell for name, ratio in CURVATURE.items() for cell in (Estimate.of(it, name).words(), number(it[ratio]))]
        for it in rows
    ]
    head = ["part", "text", "runs", "‖Hv‖ / |λ|", "over whole", "vᵀHv / |λ|", "over whole"]
    return Table("Curvature of parts of weight space", note, head, cells, *ANYWHERE)


KINDS = {
    "flatness": Kind(FLATNESS, lambda own: flatness_rows(own[FLATNESS]), _flatness_table),
    "certificates": Kind(CERTIFICATES, lambda own: certificate_rows(own[CERTIFICATES]), _certificate_table),
}
"""Files of a report about parts of weight space."""
