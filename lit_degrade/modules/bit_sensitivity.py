"""What each stored bit of some weights costs when it flips, alone: `test --config configs/bit_sensitivity.yaml`."""

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from lit_degrade.checks import at_least
from lit_degrade.criticality.catalog import METRICS, ScoreSettings, refuse_gradients
from lit_degrade.criticality.measuring import measure, passes
from lit_degrade.criticality.ranking import Weights, highest
from lit_degrade.criticality.scores import Scores, refuse_what_has_no_inputs
from lit_degrade.errors import UserError, unknown
from lit_degrade.faults import evaluation
from lit_degrade.faults.catalog import BIT_CLASSES
from lit_degrade.faults.evaluation import evaluate_flips
from lit_degrade.faults.flips import WHOLE, Flip, bit_class, flipped_values
from lit_degrade.faults.patterns import bit_patterns
from lit_degrade.faults.scores import largest
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.bits import bit_numbers
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import load_selection, sites_of, within
from lit_degrade.records import tables
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource, TokenStream

COSTLY = 0.02
"""A flip that costs more nats per token than this is called costly: 2 % of perplexity."""


class BitSensitivityModule(MeasuringModule):
    """Flip every bit of a few weights of every matrix, one at a time, and measure what it costs; count the bits of all."""

    headline = (
        "probe_tokens", "nats_per_token_pre", "flips", "nonfinite_share", "costly_share", "worst_parameter", "worst_bit",
        "worst_nats_lost",
    )  # fmt: skip

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        target: str = "blocks",
        layers: str = "all",
        bits: str = "all",
        choose: str = "random",
        k: int = 2,
        selection: str = "",
        blocks: int = 8,
        calibration_blocks: int = 32,
    ) -> None:
        """Describe which weights, which bits, and on how much text.

        Args:
            subject: the patient; every flip is undone.
            text: probe text, and calibration text for scores that need some.
            seed: of random scores and of calibration blocks.
            target: whose weights (`list targets`).
            layers: depths of the target, counted from 0: numbers and ranges, as in 0-3,7.
            bits: all, sign, exponent, mantissa, or the number of one bit, 0 the lowest.
            choose: weights of highest score are flipped: a name from `list metrics`, random for any.
            k: how many of every matrix (Q, K and V of a fused one each for itself).
            selection: safetensors file, parameter name -> flat indices (int64): flip these weights instead.
            blocks: windows of probe text on which every flip is measured; all there are, where the subject's tokenizer makes
                fewer of it.
            calibration_blocks: windows of calibration text for scores.
        """
        super().__init__(subject, text, seed)
        if choose not in METRICS:
            raise unknown("metric", choose, METRICS)
        if bits == "scales":
            raise UserError("bits 'scales' are not bits of a weight: expected all, sign, exponent, mantissa or a number.")
        if selection and choose != "random":
            raise UserError(f"choose={choose} and selection='{selection}': expected one of them.")
        at_least("model.k", k, 1)
        at_least("model.blocks", blocks, 1)
        at_least("model.calibration_blocks", calibration_blocks, 1)
        windows = text.probe_tokens // text.block
        if blocks > windows:
            raise UserError(f"model.blocks={blocks}: expected no more than the {windows} of the probe (--text.probe_tokens).")
        refuse_gradients([choose], subject.precision)
        self.where = PerturbationSettings("bit_flip", target, layers, bits, selection=selection)
        self.choose, self.k, self.blocks, self.calibration_blocks = choose, k, blocks, calibration_blocks
        self.flips: list[tuple[Site, Flip]] = []
        self.nats: Tensor

    def plan(self, device: torch.device) -> list[None]:
        """Choose the weights. One piece, since flips share forward passes."""
        self.weights = Weights(self.subject, sites_of(self.subject, self.where))
        self.numbers = [bit_numbers(stored(self.subject.model, site.parameter).format, self.where.bits) for site in self.sites]
        ids = self._chosen()
        for i, _ in self.weights.by_site(ids):
            own = ids[torch.searchsorted(self.weights.starts, ids, right=True) - 1 == i]
            for index in self.weights.pairs(own)[:, 1].tolist():
                self.flips += [(self.sites[i], Flip(self.sites[i].parameter, index, bit)) for bit in self.numbers[i]]
        return [None]

    @property
    def sites(self) -> list[Site]:
        """Places of the target."""
        return self.weights.sites

    def _chosen(self) -> Tensor:
        """Numbers of the weights to flip, (k,) int64."""
        selection = load_selection(self.subject, self.where, self.sites)
        if selection is not None:
            starts = self.weights.starts.tolist()
            numbers = [
                within(site, shape, selection.get(site.parameter)) + start
                for site, shape, start in zip(self.sites, self.weights.shapes, starts, strict=False)
            ]
            return torch.cat(numbers)
        refuse_what_has_no_inputs([self.choose], self.subject, self.sites)
        self.weights.check(self.k, "per_layer")
        settings = ScoreSettings(self.choose, self.calibration_blocks, batches=1)
        ids = (
            self.drawn_calibration(self.calibration_blocks)
            if METRICS[self.choose].needs
            else torch.empty(0, 1, dtype=torch.int64)
        )
        draws = generator(self.seed, "probes")
        with self.progress("scoring", passes(ids, [self.choose])) as bar:
            sums = measure(self.subject, ids, self.weights.parameters, [self.choose], settings, draws, bar.advance)
        return highest(self.weights, Scores(self.subject, sums, self.seed).of(self.choose), self.k, "per_layer")

    def measure_intact(self) -> Likelihood:
        """On the blocks that flips are measured on."""
        self.few_blocks = TokenStream(self.probe.ids[: self.blocks], self.probe.byte_counts[: self.blocks])
        return likelihood(self.logits, self.few_blocks)

    def measure(self, piece: None) -> None:
        """Every flip."""
        ids, flips = self.few_blocks.ids, [flip for _, flip in self.flips]
        with self.record.timed("flips"), self.progress("flipping bits", evaluation.passes(ids, flips)) as bar:
            self.nats = evaluate_flips(self.subject, ids, flips, bar.advance)

    def write(self) -> None:
        """The tables, and what flips cost by class of bit."""
        rows = self._rows()
        self.record.save_table(tables.BIT_SENSITIVITY, rows)
        self.record.save_table(tables.BIT_PATTERNS, self._pattern_rows())
        lost = [_lost(row) for row in rows]
        worst = rows[max(range(len(rows)), key=lost.__getitem__)]
        self.record.add(
            flips=len(rows),
            nonfinite_share=sum(map(math.isinf, lost)) / len(lost),
            costly_share=sum(value > COSTLY for value in lost) / len(lost),
            worst_parameter=worst["parameter"],
            worst_index=worst["index"],
            worst_bit=worst["bit"],
            worst_nats_lost=worst["log_perplexity_ratio"],
        )
        for name in BIT_CLASSES:
            own = [_lost(row) for row in rows if row["bit_class"] == name]
            if own:
                self.record.add(
                    **{
                        f"mean_nats_lost_{name}": statistics.fmean(own),
                        f"median_nats_lost_{name}": statistics.median(own),
                        f"nonfinite_share_{name}": sum(map(math.isinf, own)) / len(own),
                        f"costly_share_{name}": sum(value > COSTLY for value in own) / len(own),
                    }
                )

    def _rows(self) -> list[dict[str, Any]]:
        """A row per flip."""
        held = {name: stored(self.subject.model, name) for name in self.weights.parameters}
        limits = largest(self.subject, self.weights.parameters)
        whole = {name: weights.read(WHOLE) for name, weights in held.items()}
        rows = []
        for (site, flip), nats in zip(self.flips, self.nats.tolist(), strict=True):
            weights, index = held[flip.parameter], torch.tensor(flip.index)
            after = float(flipped_values(weights, index, torch.tensor(flip.bit)))
            rows.append(
                {
                    "parameter": flip.parameter,
                    "component": site.component,
                    "depth": site.depth,
                    "index": flip.index,
                    "choice": "selection" if self.where.selection else self.choose,
                    "format": weights.format,
                    "bit": flip.bit,
                    "bit_class": bit_class(weights.format, flip.bit),
                    "value": float(whole[flip.parameter].take(index.to(weights.device))),
                    "value_flipped": after,
                    "in_range": abs(after) <= limits[flip.parameter],
                    "nats_per_token": nats,
                    "log_perplexity_ratio": nats - self.before.nats_per_token,
                }
            )
        return rows

    def _pattern_rows(self) -> list[dict[str, Any]]:
        """A row per stored bit of every matrix of the target."""
        rows = []
        for site in self.sites:
            weights = stored(self.subject.model, site.parameter)
            rows += [
                {
                    "parameter": site.parameter,
                    "component": site.component,
                    "depth": site.depth,
                    "format": weights.format,
                    "bit": pattern.bit,
                    "bit_class": bit_class(weights.format, pattern.bit),
                    "ones": pattern.ones,
                    "entropy": pattern.entropy,
                }
                for pattern in bit_patterns(weights, site)
            ]
        return rows


def _lost(row: dict[str, Any]) -> float:
    """Nats per token that a flip costs, infinite where the loss is not a number."""
    lost = row["log_perplexity_ratio"]
    return math.inf if math.isnan(lost) else lost
