"""How flat the flat subspace is, in products and in nats: `test --config configs/flatness.yaml`."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from lit_degrade.checks import above, at_least, some
from lit_degrade.curvature.catalog import PARTS, Part
from lit_degrade.curvature.certificates import FlatSettings
from lit_degrade.curvature.products import Tensors, length
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.flat import FlatModule
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.records import tables
from lit_degrade.seeds import generator
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class FlatnessModule(MeasuringModule, FlatModule):
    """The static control: random changes of the block matrices, of given sizes, in the flat subspace, outside and all over."""

    doing = "flatness"
    headline = (
        "nats_per_token_pre",
        "flat_fraction",
        "flat_lambda_max",
        "flat_hv_norm_over_whole_calibration",
        "flat_hv_norm_over_whole_held_out",
        "flat_rayleigh_over_whole_held_out",
        "flat_worst_over_lambda_max",
        *(f"nats_lost_{part}" for part in PARTS),
    )

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        relative_norms: Sequence[float] = (0.05, 0.1, 0.25),
        draws: int = 3,
        flat: FlatSettings = FlatSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the control.

        Args:
            subject: the patient; every change is undone.
            text: calibration text for the subspace, probe text for the cost.
            seed: of every random draw.
            relative_norms: sizes of the changes, in norms of the block matrices.
            draws: random directions of each part; the same ones at all sizes.
            flat: the flat subspace, and how it is certified.
        """
        super().__init__(subject, text, seed)
        some("model.relative_norms", relative_norms)
        for size in relative_norms:
            above("model.relative_norms", size, 0)
        at_least("model.draws", draws, 1)
        self.relative_norms, self.draws, self.flat_settings = sorted(relative_norms), draws, flat
        self.rows: list[dict[str, Any]] = []

    def prepare(self, device: torch.device) -> None:
        """Load the subject with float32 weights, whatever it computes in, and its texts."""
        self.spec.refuse_untrainable()
        self.load(device, train=True)
        self.prepare_flat()
        self.work = self.plan(device)

    def plan(self, device: torch.device) -> list[tuple[Part, int]]:
        """Every part and draw."""
        return [(part, draw) for part in PARTS for draw in range(self.draws)]  # type: ignore[misc]

    def measure_intact(self) -> Likelihood:
        """Find and certify the subspace; keep the weights."""
        with torch.inference_mode(False), torch.enable_grad():
            self.measure_flat()
        self.intact: Tensors = {name: p.detach().clone() for name, p in self.flat_parameters.items()}
        self.norm = length(self.intact)
        return super().measure_intact()

    def facts(self) -> dict[str, Any]:
        """The norm that sizes are relative to."""
        return {"norm": self.norm}

    def measure(self, piece: tuple[Part, int]) -> None:
        """One direction, at every size."""
        part, draw = piece
        assert self.flat is not None
        direction = self.flat.draw(part, generator(self.seed, "flatness", str(draw)))
        try:
            for size in self.relative_norms:
                for name, p in self.flat_parameters.items():
                    p.data.copy_(self.intact[name]).add_(direction[name], alpha=size * self.norm)
                measured = likelihood(self.logits, self.probe)
                row = {"part": part, "relative_norm": size, "norm_of_change": size * self.norm, "draw": draw}
                self.rows.append(row | measured.damage(self.before))
        finally:
            for name, p in self.flat_parameters.items():
                p.data.copy_(self.intact[name])

    def write(self) -> None:
        """The table, and what the largest change of each part costs."""
        self.record.save_table(tables.FLATNESS, self.rows)
        lost: dict[str, list[float]] = {}
        for row in self.rows:
            if row["relative_norm"] == self.relative_norms[-1]:
                lost.setdefault(row["part"], []).append(row["log_perplexity_ratio"])
        self.record.add(relative_norm=self.relative_norms[-1], **{f"nats_lost_{part}": fmean(of) for part, of in lost.items()})
