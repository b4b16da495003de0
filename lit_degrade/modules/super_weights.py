"""Which single weights a subject cannot do without: `test --config configs/super_weights.yaml`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_degrade.checks import at_least, finite
from lit_degrade.criticality.spikes import Spikes, Thresholds, layer_spikes, null_thresholds
from lit_degrade.criticality.super_weights import (
    ZEROED,
    Coordinates,
    Weight,
    check_coordinates,
    matrix,
    nearest,
    published,
    search,
    verdict,
    weight_at,
    z_outliers,
)
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.edits import perturbed
from lit_degrade.records import paths, tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class SuperWeightModule(MeasuringModule):
    """Super weights by their spikes, against random initialisation; each zeroed alone, against weights of its size."""

    headline = (
        "probe_tokens", "nats_per_token_pre", "output_threshold", "super_weights", "super_weights_confirmed", "z_outlier_share",
    )  # fmt: skip

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        calibration_blocks: int = 8,
        null_models: int = 5,
        margin: float = 2.0,
        most: int = 20,
        controls: int = 20,
    ) -> None:
        """Describe the search.

        Args:
            subject: the patient; everything done to it is undone.
            text: spikes are looked for in its calibration split, losses in its probe.
            seed: of the null models and of ties between controls.
            calibration_blocks: blocks of calibration text.
            null_models: random initialisations of the subject's architecture.
            margin: a spike stands out this many times more than any of theirs.
            most: weights that are looked for.
            controls: weights of the same size that are zeroed too, per weight found; 20 allow p = 0.048.
        """
        super().__init__(subject, text, seed)
        at_least("model.calibration_blocks", calibration_blocks, 1)
        at_least("model.null_models", null_models, 1)
        finite("model.margin", margin, 1)
        at_least("model.most", most, 1)
        at_least("model.controls", controls, 5)
        self.calibration_blocks, self.null_models, self.margin = calibration_blocks, null_models, margin
        self.most, self.controls = most, controls
        self.known: list[Coordinates] = []
        self.rows: list[dict[str, Any]] = []
        self.spike_rows: list[dict[str, Any]] = []
        self.outliers: dict[str, dict[str, int]] = {}
        self.control_losses: dict[tuple[str, int], float] = {}
        self.thresholds: Thresholds
        self.calibration: Tensor

    def plan(self, device: torch.device) -> list[None]:
        """One piece, since how many weights there are shows on the way; see whether the published coordinates fit."""
        self.calibration = self.text.blocks("calibration", self.subject.tokenizer, self.calibration_blocks).ids
        self.known = published(self.subject.lineage[0]["name"] if self.subject.lineage else self.spec.name)
        check_coordinates(self.subject, self.known)
        return [None]

    def measure(self, piece: None) -> None:
        """Null models, the search, and what each weight does."""
        for site in self.subject.anatomy.select("mlp_down"):
            weights = matrix(self.subject, site)
            self.outliers[site.parameter] = {"weights": weights.numel(), "z_outliers": z_outliers(weights)}
        with self.record.timed("null_models"), self.progress("random models", self.null_models) as bar:
            self.thresholds = null_thresholds(
                self.subject, self.calibration, self.seed, self.null_models, self.margin, bar.advance
            )
        with self.record.timed("search"), self.progress("searching", self.most) as bar:
            found, stages = search(self.subject, self.logits, self.calibration, self.thresholds, self.most, bar.advance)
            again = layer_spikes(self.subject.model, self.subject.anatomy, self.logits, self.calibration)
        for stage, layers in [*enumerate(stages), (-1, again)]:
            self.spike_rows += [self._spike_row(stage, spikes) for spikes in layers]
        missed = self._missed(found, stages[0])
        self._test_weights(found, missed)
        self.record.add(
            super_weights=len(found),
            super_weights_confirmed=sum(row["confirmed"] for row in self.rows if row["order"]),
            super_weights_published=len(self.known),
            super_weights_published_found=len(self.known) - len(missed),
        )
        if found:
            self.record.save_tensors(paths.SUPER_WEIGHT_SET, _selection(found))

    def write(self) -> None:
        """The tables; without weights to speak of there are no rows."""
        self.record.save_table(tables.SPIKES, self.spike_rows)
        if self.rows:
            self.record.save_table(tables.SUPER_WEIGHTS, self.rows)
        weights, outliers = (sum(counts[key] for counts in self.outliers.values()) for key in ("weights", "z_outliers"))
        self.record.add(
            calibration_tokens=self.calibration.numel(),
            null_models=self.null_models,
            input_threshold=self.thresholds.inputs,
            output_threshold=self.thresholds.outputs,
            z_outliers=outliers,
            z_outlier_share=outliers / weights,
        )

    def _missed(self, found: Sequence[Weight], intact: Sequence[Spikes]) -> list[Weight]:
        """Published weights that were not found."""
        layers, own = {spikes.site.depth: spikes for spikes in intact}, {weight.coordinates for weight in found}
        return [weight_at(self.subject, layers[at[0]], *at[1:]) for at in self.known if at not in own]

    def _test_weights(self, found: Sequence[Weight], missed: Sequence[Weight]) -> None:
        """Zero each weight alone, and its controls."""
        treated = [*found, *missed]
        losses = len(treated) * (1 + self.controls)
        with self.record.timed("causal_tests"), self.progress("zeroing one weight at a time", losses) as bar:
            for order, weight in enumerate(treated, 1):
                lost = self._lost(weight.site.parameter, weight.flat)
                bar.advance()
                controls = nearest(self.subject, weight, self.controls, treated, self.seed)
                control_losses = []
                for name, flat, _ in controls:
                    control_losses.append(self._control_loss(name, flat))
                    bar.advance()
                self.rows.append(
                    {
                        "order": order if order <= len(found) else None,
                        **self._facts(weight),
                        **verdict(lost, control_losses),
                        "control_mean_abs_weight": sum(abs(value) for *_, value in controls) / len(controls),
                        "published": weight.coordinates in self.known if self.known else None,
                    }
                )

    def _facts(self, weight: Weight) -> dict[str, Any]:
        """Where a weight is and what it does, for super_weights.csv."""
        return {
            "parameter": weight.site.parameter,
            "depth": weight.site.depth,
            "row": weight.row,
            "column": weight.column,
            "value": weight.value,
            "z": weight.z,
            "output_ratio": weight.spikes.output_ratio,
            "output_threshold": self.thresholds.outputs,
            "input_ratio": weight.spikes.input_ratio,
            "input_threshold": self.thresholds.inputs,
            "share": weight.share,
        }

    def _spike_row(self, stage: int, spikes: Spikes) -> dict[str, Any]:
        """A row of spikes.csv; the outliers are those of the intact matrix."""
        return {
            "stage": stage,
            "depth": spikes.site.depth,
            "parameter": spikes.site.parameter,
            "input_max": spikes.input_max,
            "input_channel": spikes.input_channel,
            "input_ratio": spikes.input_ratio,
            "input_threshold": self.thresholds.inputs,
            "output_max": spikes.output_max,
            "output_channel": spikes.output_channel,
            "output_ratio": spikes.output_ratio,
            "output_threshold": self.thresholds.outputs,
            **self.outliers[spikes.site.parameter],
        }

    def _control_loss(self, parameter: str, flat: int) -> float:
        """`_lost`, measured once for weights that are controls of several."""
        if (parameter, flat) not in self.control_losses:
            self.control_losses[parameter, flat] = self._lost(parameter, flat)
        return self.control_losses[parameter, flat]

    def _lost(self, parameter: str, flat: int) -> float:
        """Nats per token lost when one weight is zero, infinite where the loss is not a number."""
        only = {parameter: torch.tensor([flat], device=self.subject.device)}
        with perturbed(self.subject, *ZEROED, recorded=False, only=only):
            lost = likelihood(self.logits, self.probe).nats_per_token - self.before.nats_per_token
        return math.inf if math.isnan(lost) else lost


def _selection(weights: Sequence[Weight]) -> dict[str, Tensor]:
    """Weights as parameter -> flat positions in it, int64."""
    names = dict.fromkeys(weight.site.parameter for weight in weights)
    return {name: torch.tensor([weight.flat for weight in weights if weight.site.parameter == name]) for name in names}
