"""One subject as given, pruned, noisy and attacked, side by side: `test --config configs/comparison.yaml`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from lit_degrade.adversarial.catalog import ATTACKS, Norm
from lit_degrade.adversarial.embeddings import embedded, logits, shifted, units
from lit_degrade.adversarial.reading import attack_prompt, attack_text, changed_logits, continued
from lit_degrade.checks import at_least, finite
from lit_degrade.errors import UserError, unknown
from lit_degrade.generation.generator import Continuation, Decoding, TextGenerator
from lit_degrade.generation.queries import Query
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.catalog import PerturbationSettings, check_dose
from lit_degrade.perturbations.edits import Dose, edits, perturbed
from lit_degrade.perturbations.edits import totals as edit_totals
from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.pruning.prune import pruned, sites_to_prune
from lit_degrade.pruning.prune import totals as pruning_totals
from lit_degrade.records import tables
from lit_degrade.seeds import derive, generator
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject, save_stage, weights_sha256
from lit_degrade.text import TextSource

SHOWN = 100
"""Letters of an answer in the summary; all of it is in variants.csv."""


@dataclass(frozen=True)
class DoseSettings(PerturbationSettings):
    """A perturbation and its dose."""

    level: float = 0.0
    """in the unit of the method"""

    def __post_init__(self) -> None:
        """Raise: UserError for settings that cannot mean anything."""
        super().__post_init__()
        check_dose(self.method, self.level, "model.perturb.level")


@dataclass(frozen=True)
class SubjectVariant:
    """What the subject is made into."""

    name: str
    kind: str
    """intact, pruned, perturbed, attacked (its inputs), or other (another subject)"""
    how: PruneSettings | DoseSettings | str | None = None
    """what is done; the name of an attack, or of another subject"""


class ComparisonModule(MeasuringModule):
    """Measure variants of a subject on the same text, and have each answer the same prompt."""

    doing = "comparing"

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        prompt: str = "The with statement is used to",
        prune: Sequence[PruneSettings] = (),
        perturb: Sequence[DoseSettings] = (),
        attacks: Sequence[str] = (),
        norm: Norm = "linf",
        epsilon: float = 0.1,
        steps: int = 10,
        beside: Sequence[str] = (),
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        keep: bool = False,
    ) -> None:
        """Describe the variants.

        Args:
            subject: the patient; whatever is done to it is undone.
            text: probe and calibration text.
            seed: of every random draw.
            prompt: what every variant continues.
            prune: prunings, each of the subject as given.
            perturb: perturbations with their levels, each of the subject as given.
            attacks: on the embeddings of the text, and of the prompt, that the subject as given reads: random, fgsm, pgd.
            norm: of attacks: linf or l2.
            epsilon: size of attacks, in the unit of the norm.
            steps: of pgd.
            beside: other subjects: names, folders, records.
            decoding: how answers are written.
            keep: save every pruned and perturbed variant as a subject, in subjects/ of the record.
        """
        super().__init__(subject, text, seed)
        if not prompt.strip():
            raise UserError('the prompt is empty: --prompt "TEXT".')
        finite("model.epsilon", epsilon, 0)
        at_least("model.steps", steps, 1)
        for attack in attacks:
            if attack not in ATTACKS:
                raise unknown("attack", attack, ATTACKS)
        self.query, self.decoding, self.keep = Query(prompt, derive(seed, "sample", "prompt")), decoding, keep
        self.norm, self.epsilon, self.steps = norm, epsilon, steps
        self.variants = [
            SubjectVariant("as given", "intact"),
            *(SubjectVariant(_pruned_name(how), "pruned", how) for how in prune),
            *(SubjectVariant(f"{how.method} {how.target} {how.level:g}", "perturbed", how) for how in perturb),
            *(SubjectVariant(f"{attack} {norm} {epsilon:g}", "attacked", attack) for attack in attacks),
            *(SubjectVariant(name, "other", name) for name in beside),
        ]
        names = [variant.name for variant in self.variants]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two variants are called '{doubled[0]}': expected each once.")
        self.rows: list[dict[str, Any]] = []
        self.others: dict[str, Subject] = {}
        self.windows: dict[int, Tensor] = {}
        self.said: Continuation

    def plan(self, device: torch.device) -> list[SubjectVariant]:
        """Load the other subjects, and see that each variant can be made."""
        for variant in self.variants:
            if isinstance(variant.how, PruneSettings):
                sites_to_prune(self.subject, variant.how)
                count = variant.how.calibration_blocks
                self.windows[count] = self.drawn_calibration(count)
            elif isinstance(variant.how, DoseSettings):
                next(edits(self.subject, variant.how, Dose(variant.how.level, self.seed)))
            elif variant.kind == "other":
                spec = SubjectSpec(variant.name, self.spec.precision, self.spec.adapter)
                self.others[variant.name] = load_subject(spec, self.seed, device, train=False)
        self.writers = {
            name: TextGenerator(subject, self.decoding) for name, subject in {"": self.subject, **self.others}.items()
        }
        for writer in self.writers.values():
            writer.batches([self.query])
        (self.said,) = self.writers[""]([self.query])
        if not self.said.ids and any(variant.kind == "attacked" for variant in self.variants):
            raise UserError(
                f"'{self.spec.name}' writes nothing after the prompt, which leaves nothing to attack: use another one, or "
                "--model.attacks '[]'."
            )
        return self.variants

    def facts(self) -> dict[str, Any]:
        """What every variant continues."""
        return {"prompt": self.query.text}

    def measure(self, piece: SubjectVariant) -> None:
        """Measure a variant and let it write."""
        with torch.inference_mode(False), torch.enable_grad(), self._made(piece) as (change, measured, made):
            self.rows.append(
                {
                    "variant": piece.name,
                    "kind": piece.kind,
                    **change,
                    **measured.damage(self.before),
                    "answer": made.text,
                    "answer_tokens": len(made.ids),
                }
            )
            if self.keep and piece.kind in ("pruned", "perturbed"):
                self._save(piece)

    @contextmanager
    def _made(self, variant: SubjectVariant) -> Iterator[tuple[dict[str, Any], Likelihood, Continuation]]:
        """The variant while it exists: how large a change it is, its likelihood, its answer."""
        how = variant.how
        if isinstance(how, PruneSettings):
            with pruned(self.subject, how, self.windows[how.calibration_blocks], self.seed) as rows:
                total = pruning_totals(rows)
                size = {"sparsity": total["sparsity_achieved"], "relative_norm": total["relative_norm"]}
                yield size, likelihood(self.logits, self.probe), self._answer()
        elif isinstance(how, DoseSettings):
            with perturbed(self.subject, how, Dose(how.level, self.seed)) as records:
                norm = edit_totals(records)["relative_norm"]
                yield {"sparsity": None, "relative_norm": norm}, likelihood(self.logits, self.probe), self._answer()
        elif variant.kind == "attacked":
            yield {"sparsity": None, "relative_norm": None}, *self._attacked(str(how))
        elif variant.kind == "other":
            other = self.others[variant.name]
            probe = self.text.probe(other.tokenizer)
            yield (
                {"sparsity": None, "relative_norm": None},
                likelihood(partial(logits, other), probe),
                self._answer(variant.name),
            )
        else:
            yield {"sparsity": None, "relative_norm": 0.0}, self.before, self.said

    def _answer(self, name: str = "") -> Continuation:
        """What another subject, or this one as it is now, writes after the prompt."""
        (made,) = self.writers[name]([self.query])
        return made

    def _attacked(self, attack: str) -> tuple[Likelihood, Continuation]:
        """The subject as given, reading attacked text and an attacked prompt."""
        radius = self.epsilon * units(embedded(self.subject, self.probe.ids))[self.norm]
        how = (attack, self.norm, radius, self.steps)
        delta = attack_text(
            self.subject, self.probe.ids, *how, lambda row: generator(self.seed, "comparison", attack, str(row))
        )
        measured = likelihood(changed_logits(self.subject, self.logits, delta), self.probe)
        prompt = attack_prompt(self.subject, self.said, *how, generator(self.seed, "comparison", attack, "prompt"))
        return measured, continued(self.writers[""], self.query, shifted(prompt))

    def write(self) -> None:
        """The table, and how many variants it has."""
        self.record.save_table(tables.VARIANTS, self.rows)
        self.record.add(variants=len(self.rows))

    def told(self) -> dict[str, Any]:
        """Perplexity of every variant, then what each says."""
        perplexities = {f"{row['variant']}: perplexity": row["perplexity"] for row in self.rows}
        return perplexities | {f"{row['variant']}: answer": shorten(row["answer"], SHOWN) for row in self.rows}

    def _save(self, variant: SubjectVariant) -> None:
        """Keep a variant as a subject with its lineage."""
        before = list(self.subject.lineage) or [{"name": self.subject.spec.name, "sha256": self.subject.sha256}]
        stage = {"run_id": self.record.run_id, "experiment": self.record.experiment, "variant": variant.name}
        lineage = [*before, {**stage, "sha256": weights_sha256(self.subject.model)}]
        with self.record.whole(f"subjects/{variant.name.replace(' ', '_').replace(':', '-')}") as folder:
            save_stage(self.subject, folder, lineage)


def _pruned_name(how: PruneSettings) -> str:
    what = how.pattern or f"{how.share:g}"
    return " ".join(filter(None, ["pruned", how.method, how.scope, how.structure, what]))
