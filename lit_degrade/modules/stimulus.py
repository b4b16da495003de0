"""Gradient geometry of a subject: its null space, and every stimulus measured against it."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from lit_degrade.checks import at_least
from lit_degrade.curvature.kronecker import kronecker_factors
from lit_degrade.curvature.null_space import NullSpace, NullSpaceSettings, exact_nulls, find_null_space
from lit_degrade.curvature.products import HessianProducts, HvpMethod, Losses, flatten
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.flat import FlatModule
from lit_degrade.records import tables
from lit_degrade.records.cache import Parts
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalog import STIMULI, Stimulus
from lit_degrade.stimuli.catalyst import (
    Catalyst,
    EnergyObjective,
    LossObjective,
    allowed_tokens,
    guided_search,
    random_swap_search,
)
from lit_degrade.stimuli.controls import StimulusData, gaussian_noise, published_noise, random_text, random_tokens
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


@dataclass(frozen=True)
class StimulusSettings:
    """Shape and cost of every stimulus: the same for all arms."""

    tokens: int = 64
    """length of a sequence"""
    sequences: int = 1
    """sequences per step; the same ones at every step"""
    evaluations: int = 600
    """budget of each search, in evaluations of its objective per sequence"""

    def __post_init__(self) -> None:
        """Raise: UserError for sizes that cannot work."""
        at_least("model.stimuli.tokens", self.tokens, 2)
        at_least("model.stimuli.sequences", self.sequences, 1)
        at_least("model.stimuli.evaluations", self.evaluations, 1)


class StimulusModule(FlatModule):
    """A run that needs a subject's null space and the stimuli synthesised from it."""

    null_space: NullSpace

    def __init__(
        self, subject: SubjectSpec, text: TextSource, seed: int, stimuli: StimulusSettings, null_space: NullSpaceSettings
    ) -> None:
        """Keep what is to be measured; modules that build on this one say what the arguments mean."""
        super().__init__(subject, text, seed)
        self.stimuli = stimuli
        self.settings = null_space
        self.hvp: HvpMethod = (
            null_space.hvp if null_space.hvp != "auto" else "central_difference" if subject.precision == "int8" else "exact"
        )

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        self.spec.refuse_untrainable()
        self.load(device, train=True)
        tokenizer = self.subject.tokenizer
        self.calibration = self.text.blocks("calibration", tokenizer, self.settings.calibration_blocks).ids.to(device)
        self.attack_stream = self.text.tokens("attack", tokenizer)
        self.null_parameters = self.subject.parameters(self.settings.target)
        self.settings.check(sum(p.numel() for p in self.null_parameters.values()))
        self.record.add(tokens=self.stimuli.tokens, sequences=self.stimuli.sequences, hvp=self.hvp)

    def measure_null_space(self) -> None:
        """Find, certify and record the null and signal subspaces of the calibration loss."""
        with self.record.timed("null_space"):
            tensors, facts = self.shared("null_space", self._depends_on(), self._find_null_space)
        store = torch.device("cpu") if self.settings.offload else self.subject.device
        placed = {name: t.to(store) if t.dim() == 2 else t for name, t in tensors.items()}
        self.null_space = NullSpace(**cast(Any, placed), **facts)
        self.record.add(**self.null_space.facts())
        self.record.save_table(tables.DIRECTIONS, self.null_space.certificates())

    def _find_null_space(self) -> Parts:
        named = self.null_parameters
        total = self.settings.products + self.settings.directions + self.settings.random_directions
        with self.progress("null space", total) as progress:
            factors = kronecker_factors(self.model, named, self.calibration_losses())
            nulls = exact_nulls(self.subject.anatomy, named, factors) if self.spec.adapter == "full" else []
            hessian = HessianProducts(self.calibration_losses(), named, self.hvp)
            draws = generator(self.seed, "null_space")
            null_space = vars(find_null_space(hessian, self.settings, draws, factors, nulls, progress.advance))
        tensors = {name: value for name, value in null_space.items() if isinstance(value, Tensor)}
        return tensors, {name: value for name, value in null_space.items() if name not in tensors}

    def _depends_on(self) -> dict[str, Any]:
        """Everything that the null space of this run follows from."""
        device = self.subject.device
        return {
            "subject": self.subject.sha256,
            "spec": asdict(replace(self.spec, name="", gradient_checkpointing=False)),
            "seed": self.seed,
            "text": self.text.sha256,
            "block": self.text.block,
            "settings": asdict(replace(self.settings, offload=False)),
            "hvp": self.hvp,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }

    def calibration_losses(self) -> Losses:
        """Mean negative log-likelihood of the calibration text, in float32 whatever the subject's precision, in its parts."""
        total = self.calibration[:, 1:].numel()

        def part(tokens: Tensor) -> Tensor:
            return token_nll(self.model(input_ids=tokens, use_cache=False).logits, tokens).sum() / total

        return [partial(part, tokens) for tokens in self.calibration.split(self.settings.microbatch or len(self.calibration))]

    def synthesise(self, seed: int) -> tuple[dict[Stimulus, StimulusData], list[dict[str, Any]]]:
        """Every stimulus for one seed, and a row for each with its share of gradient energy in the null space.

        All are made, whichever one a run uses, so that every record holds the comparison. The last row, `random_swap`, is no
        stimulus but the baseline that the eigen-prion's search has to beat with the same budget.
        """
        depends_on = {**self._depends_on(), "stimuli": asdict(self.stimuli), "stimulus_seed": seed}
        with self.record.timed("stimuli"):
            tensors, rows = self.shared("stimuli", depends_on, lambda: self._synthesise(seed))
        made = {name: StimulusData(tensors[name], tensors.get(f"{name}.embeddings")) for name in STIMULI}
        return cast(dict[Stimulus, StimulusData], made), rows

    def _synthesise(self, seed: int) -> Parts:
        subject, settings = self.subject, self.stimuli
        n, length = settings.sequences, settings.tokens
        allowed = allowed_tokens(subject)
        start = random_tokens(allowed, n, length, generator(seed, "random_tokens"))
        energy, loss = EnergyObjective(subject, self.null_parameters, self.null_space, self.hvp), LossObjective(subject)
        searches: dict[str, list[Catalyst]] = {}
        with self.progress("catalysts", 3 * settings.evaluations * n) as progress:
            for name, search, objective in (
                ("eigen_prion", guided_search, energy),
                ("loss_ascent", guided_search, loss),
                ("random_swap", random_swap_search, energy),
            ):
                searches[name] = [
                    search(objective, row, allowed, settings.evaluations, generator(seed, name, str(i)), progress.advance)
                    for i, row in enumerate(start.tokens.to(subject.device))
                ]
        made = {name: StimulusData(torch.stack([c.tokens for c in catalysts]).cpu()) for name, catalysts in searches.items()}
        swapped = made.pop("random_swap")
        made |= {
            "random_tokens": start,
            "gaussian_noise": gaussian_noise(subject, allowed, n, length, generator(seed, "gaussian_noise")),
            "published_noise": published_noise(subject, allowed, n, length, generator(seed, "gaussian_noise")),
            "random_text": random_text(self.attack_stream, n, length, generator(seed, "random_text")),
        }
        rows = [self._row(seed, name, data, searches.get(name, [])) for name, data in {**made, "random_swap": swapped}.items()]
        tensors = {name: data.tokens for name, data in made.items()}
        tensors |= {f"{name}.embeddings": data.embeddings for name, data in made.items() if data.embeddings is not None}
        return tensors, rows

    def _row(self, seed: int, name: str, data: StimulusData, searches: list[Catalyst]) -> dict[str, Any]:
        loss = data.loss(self.subject)
        gradient = torch.autograd.grad(loss, list(self.null_parameters.values()))
        g = flatten(dict(zip(self.null_parameters, gradient, strict=True)))
        row = {
            "seed": seed,
            "stimulus": name,
            "null_energy": self.null_space.energy(g),
            "signal_energy": self.null_space.signal_energy(g),
            "gradient_norm": float(g.norm()),
            "nats_per_token": float(loss.detach()),
        }
        if searches:
            row["evaluations"] = sum(s.evaluations for s in searches)
            row["tokens_changed"] = sum(s.changed for s in searches) / len(searches)
        return row
