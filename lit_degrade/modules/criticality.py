"""Which weights matter, and does damage to them show it? `test --config configs/criticality.yaml`."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_degrade.checks import at_least, some
from lit_degrade.criticality.arms import WeightSet, arms_of
from lit_degrade.criticality.catalog import TREATED, Mode, ScoreSettings, choose_metrics, refuse_gradients
from lit_degrade.criticality.controls import among
from lit_degrade.criticality.measuring import measure, passes
from lit_degrade.criticality.ranking import Weights, highest
from lit_degrade.criticality.scores import Scores, refuse_what_has_no_inputs
from lit_degrade.criticality.structure import LEAST_SITES, correlations
from lit_degrade.criticality.sums import Sums
from lit_degrade.criticality.tables import Rankings, agreement_rows, cluster_rows, score_rows
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.catalog import METHODS, PerturbationSettings, check_dose
from lit_degrade.perturbations.edits import Dose, perturbed, totals
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.records import paths, tables
from lit_degrade.seeds import derive, generator
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource


class CriticalityModule(MeasuringModule):
    """Score the weights of a target, perturb those of highest score and controls, and see what the scores have in common."""

    doing = "perturbing"
    headline = ("weights", "calibration_tokens", "probe_tokens", "nats_per_token_pre", "arms")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        scores: ScoreSettings = ScoreSettings(),  # noqa: B008 (frozen)
        k: Sequence[int] = (10, 100, 1000, 10000),
        mode: Mode = "global",
        perturbation: PerturbationSettings = PerturbationSettings("zero", "blocks"),  # noqa: B008 (frozen)
        level: float = 1.0,
        draws: int = 5,
        beside: Sequence[str] = (),
    ) -> None:
        """Describe the scores and the damage.

        Args:
            subject: the patient; every perturbation is undone.
            text: calibration and probe text.
            seed: of calibration blocks, random vectors, controls and perturbations.
            scores: which scores, from how much text.
            k: numbers of weights to perturb.
            mode: the k highest of the whole target (global), or of every matrix (per_layer).
            perturbation: what is done to chosen weights; its target and layers are what is scored.
            level: its dose, in the unit of the method: for zero, sign_flip and bit_flip a share, for noise its size.
            draws: of every random control, and of every random perturbation.
            beside: other subjects of the same shape, such as checkpoints, whose scores are compared with this one's.
        """
        super().__init__(subject, text, seed)
        self.settings, self.mode, self.how, self.level = scores, mode, perturbation, level
        self.metrics, self.ks, self.draws, self.beside = choose_metrics(scores.metrics), sorted(set(k)), draws, list(beside)
        _check(perturbation, level, draws, self.ks)
        refuse_gradients(self.metrics, subject.precision)
        self.effects: list[dict[str, Any]] = []
        self.norm = math.nan

    def plan(self, device: torch.device) -> list[WeightSet]:
        """Score, and choose all weights that will be perturbed."""
        self.weights = Weights(self.subject, sites_of(self.subject, self.how))
        refuse_what_has_no_inputs(self.metrics, self.subject, self.weights.sites)
        for k in self.ks:
            self.weights.check(k, self.mode)
        self.ids = self.drawn_calibration(self.settings.calibration_blocks)
        sums, self.parts = self._score(self.subject)
        self.scores = Scores(self.subject, sums, self.seed)
        self.rankings = self._rank(self.scores)
        self.others = {name: self._rankings_of(name, device) for name in self.beside}
        how = (self.ks, self.mode, self.draws, self.seed)
        return [arm for metric in self.metrics for arm in arms_of(self.scores, self.weights, metric, *how)]

    def _score(self, subject: Subject) -> tuple[Sums, list[Rankings]]:
        """Sums over all calibration text, and the rankings by every part of it alone."""
        total, rankings = Sums(), []
        parts = self.ids.chunk(self.settings.batches)
        with self.progress("scoring", sum(passes(ids, self.metrics) for ids in parts)) as bar:
            for i, ids in enumerate(parts):
                draws = generator(self.seed, "probes", str(i))
                sums = measure(subject, ids, self.weights.parameters, self.metrics, self.settings, draws, bar.advance)
                rankings.append(self._rank(Scores(subject, sums, derive(self.seed, "part", str(i)))))
                total.add_(sums)
        return total, rankings

    def _rank(self, scores: Scores) -> Rankings:
        return {metric: highest(self.weights, scores.of(metric), self.ks[-1]) for metric in self.metrics}

    def _rankings_of(self, name: str, device: torch.device) -> Rankings:
        """Rankings of another subject of the same shape."""
        other = load_subject(replace(self.spec, name=name), self.seed, device, train=False)
        theirs = Weights(other, sites_of(other, self.how))
        if (theirs.parameters, theirs.shapes) != (self.weights.parameters, self.weights.shapes):
            raise UserError(
                f"beside: '{name}' does not have the shape of '{self.spec.name}': their weights cannot be compared."
            )
        return self._rank(Scores(other, self._score(other)[0], self.seed))

    def facts(self) -> dict[str, Any]:
        """How much is scored, by how much text."""
        self.norm = math.sqrt(sum(float(self.scores.weights(s).double().square().sum()) for s in self.weights.sites))
        return {"weights": len(self.weights), "calibration_tokens": self.ids.numel()}

    def measure(self, piece: WeightSet) -> None:
        """Perturb the weights of one arm; again with other random numbers, where other weights are not drawn already."""
        for draw in range(1 if piece.drawn else self._repetitions):
            self.effects.append(self._effect(piece, draw if not piece.drawn else piece.draw))

    @property
    def _repetitions(self) -> int:
        """How often the same weights are perturbed: every injury is another where random numbers decide it."""
        return 1 if METHODS[self.how.method].certain(self.level) else self.draws

    def _effect(self, arm: WeightSet, draw: int) -> dict[str, Any]:
        """A row of effects.csv."""
        return {
            "metric": arm.metric,
            "mode": self.mode,
            "method": self.how.method,
            "level": self.level,
            "arm": arm.name,
            "k": arm.k,
            "draw": draw,
            "random": arm.drawn or self._repetitions > 1,
            "zero_scores": arm.zero_scores,
            "matched": None if math.isnan(arm.matched) else arm.matched,
            **self._damage(arm.ids, draw),
        }

    def _damage(self, ids: Tensor, draw: int) -> dict[str, Any]:
        """What perturbing some weights costs."""
        with perturbed(self.subject, self.how, Dose(self.level, self.seed, draw), only=self.weights.only(ids)) as records:
            total = totals(records)
            measured = likelihood(self.logits, self.probe)
        return {
            "weights": total["weights"],
            "norm_of_change": total["norm_of_change"],
            "relative_norm": total["norm_of_change"] / self.norm if self.norm else 0.0,
            **measured.damage(self.before),
        }

    def write(self) -> None:
        """The tables, the rankings, and what damage to clusters of matrices costs."""
        rows = score_rows(self.scores, self.weights, self.work)
        self.record.save_table(tables.SCORES, rows)
        self.record.save_table(tables.EFFECTS, self.effects)
        self.record.save_table(tables.CORRELATIONS, correlations(rows))
        compared = agreement_rows(self.weights, self.ks, self.spec.name, self.rankings, self.parts, self.others)
        if stability := list(compared):
            self.record.save_table(tables.STABILITY, stability)
        self._save_sets()
        self._cluster(rows)
        self.record.add(arms=len(self.effects), **self._excesses())

    def _save_sets(self) -> None:
        """The ranking of every metric, and each treated set as a selection that `perturbation.selection` takes."""
        metadata = {"parameters": json.dumps(self.weights.parameters), "weights": str(len(self.weights))}
        ranked = {metric: self.weights.pairs(ids) for metric, ids in self.rankings.items()}
        self.record.save_tensors(paths.RANKINGS, ranked, metadata)
        for arm in self.work:
            if arm.name == TREATED:
                self.record.save_tensors(paths.TOP.format(arm.metric, arm.k), self.weights.only(arm.ids))

    def _cluster(self, rows: Sequence[dict[str, Any]]) -> None:
        """Sites that are alike by their scores, and what perturbing as many weights of each cluster costs."""
        if len(self.weights.sites) < LEAST_SITES or self.metrics == ["random"]:
            self.record.notes["not_clustered"] = f"{len(self.weights.sites)} sites, scored by {', '.join(self.metrics)}"
            return
        table, clusters = cluster_rows(self.weights, rows, derive(self.seed, "clusters") % 2**32)
        self.record.save_table(tables.CLUSTERS, table)
        if effects := [row for algorithm, own in clusters.items() for row in self._cluster_effects(algorithm, own)]:
            self.record.save_table(tables.CLUSTER_EFFECTS, effects)

    def _cluster_effects(self, algorithm: str, clusters: dict[int, list[int]]) -> Iterator[dict[str, Any]]:
        """Rows of cluster_effects.csv: the same number of weights, drawn at random, from each cluster of sites."""
        sizes = {c: sum(map(self.weights.size, sites)) for c, sites in clusters.items()}
        fits = [k for k in self.ks if k <= min(sizes.values(), default=0)]
        for c in clusters if fits else ():
            for draw in range(self.draws):
                draws = generator(self.seed, "cluster", algorithm, str(c), str(draw))
                what = {"algorithm": algorithm, "cluster": c, "sites": len(clusters[c]), "method": self.how.method}
                damage = self._damage(among(self.weights, clusters[c], fits[-1], draws), draw)
                yield what | {"level": self.level, "k": fits[-1], "draw": draw, **damage}

    def _excesses(self) -> dict[str, float]:
        """Columns of the summary: what damage to the k highest costs beyond damage to k others of the same size."""
        cost: dict[tuple[str, int, str], list[float]] = {}
        for row in self.effects:
            cost.setdefault((row["metric"], row["k"], row["arm"]), []).append(row["log_perplexity_ratio"])
        mean = {key: statistics.fmean(values) for key, values in cost.items()}
        return {
            f"excess_{metric}_k{k}": mean[metric, k, TREATED] - mean[metric, k, "matched_random_k"]
            for metric in self.metrics
            for k in self.ks
        }


def _check(how: PerturbationSettings, level: float, draws: int, ks: Sequence[int]) -> None:
    """Raise: UserError for a perturbation that cannot be meant."""
    check_dose(how.method, level, "model.level")
    if level == METHODS[how.method].none:
        raise UserError(f"model.level: {level:g} of {how.method} changes nothing.")
    if how.selection:
        raise UserError("perturbation.selection is of no use here: weights are chosen by their scores.")
    at_least("model.draws", draws, 1)
    some("model.k", ks)
    for k in ks:
        at_least("model.k", k, 1)
