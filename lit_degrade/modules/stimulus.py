"""Gradient geometry of a subject: its null space, and every stimulus measured against it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from lit_degrade.checks import at_least
from lit_degrade.curvature.certificates import FlatSettings
from lit_degrade.curvature.kronecker import kronecker_factors
from lit_degrade.curvature.null_space import NullSpace, NullSpaceSettings, exact_nulls, find_null_space
from lit_degrade.curvature.products import HessianProducts, HvpMethod, Losses, flatten
from lit_degrade.modules.flat import FlatModule, hvp_facts, hvp_method
from lit_degrade.records import tables
from lit_degrade.records.cache import Parts
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalog import Stimulus
from lit_degrade.stimuli.catalyst import (
    Catalyst,
    EnergyObjective,
    LossObjective,
    Objective,
    Search,
    allowed_tokens,
    guided_search,
    random_swap_search,
)
from lit_degrade.stimuli.controls import StimulusData, gaussian_noise, published_noise, random_text, random_tokens
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource

Made = Stimulus | Literal["random_swap"]
"""What can be made: the stimuli, and the baseline that the eigen-prion's search has to beat with the same budget."""


@dataclass(frozen=True)
class StimulusSettings:
    """Shape and cost of every stimulus: the same for all arms."""

    tokens: int = 64
    """length of a sequence"""
    sequences: int = 1
    """sequences per step; the same ones at every step"""
    evaluations: int = 600
    """budget of each search, in evaluations of its objective per sequence"""
    compare: bool = True
    """make and measure every stimulus, whichever one a run is about, so that every record holds the comparison"""

    def __post_init__(self) -> None:
        """Raise: UserError for sizes that cannot work."""
        at_least("model.stimuli.tokens", self.tokens, 2)
        at_least("model.stimuli.sequences", self.sequences, 1)
        at_least("model.stimuli.evaluations", self.evaluations, 1)


class StimulusModule(FlatModule):
    """A run that needs a subject's null space and the stimuli synthesised from it."""

    null_space: NullSpace | None = None
    """explicit directions, where the method is krylov"""
    null_parameters: dict[str, nn.Parameter]
    """matrices that the null space is over, whatever the method"""

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        stimuli: StimulusSettings,
        null_space: NullSpaceSettings,
        flat: FlatSettings,
        flat_too: bool = False,
    ) -> None:
        """Keep what is to be measured; modules that build on this one say what the arguments mean.

        Args:
            subject: the patient.
            text: calibration, attack and probe text.
            seed: of every random draw.
            stimuli: shape and cost of every stimulus.
            null_space: method, sizes and budgets of the null space.
            flat: the flat subspace.
            flat_too: whether that is needed whatever the method.
        """
        super().__init__(subject, text, seed)
        self.stimuli = stimuli
        self.settings = null_space
        self.flat_settings = flat
        self.needs_flat = flat_too or null_space.method == "flat"
        self.hvp: HvpMethod = null_space.hvp if null_space.hvp != "auto" else hvp_method(subject)

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        self.spec.refuse_untrainable()
        self.load(device, train=True)
        tokenizer = self.subject.tokenizer
        self.attack_stream = self.text.tokens("attack", tokenizer)
        if self.needs_flat:
            self.prepare_flat()
        if self.settings.method == "flat":
            self.null_parameters = self.flat_parameters
        else:
            self.calibration = self.text.blocks("calibration", tokenizer, self.settings.calibration_blocks).ids.to(device)
            self.null_parameters = self.subject.parameters(self.settings.target)
            self.settings.check(sum(p.numel() for p in self.null_parameters.values()))
        self.record.add(
            tokens=self.stimuli.tokens, sequences=self.stimuli.sequences, **hvp_facts(self.hvp, self.null_parameters)
        )

    def told(self) -> dict[str, Any]:
        """What is printed at the end, of what this run is about."""
        return {key: value for key, value in super().told().items() if value is not None}

    def measure_geometry(self) -> None:
        """Find, certify and record the spaces that the run is about."""
        if self.needs_flat:
            self.measure_flat()
        if self.settings.method == "krylov":
            self._measure_null_space()

    def null_energies(self, vector: dict[str, Tensor]) -> tuple[float, float | None]:
        """Shares of a vector's energy over `null_parameters` in the null space and, if there is one, the signal subspace."""
        if self.null_space is None:
            assert self.flat is not None
            return self.flat.shares(vector).flat, None
        flat = flatten(vector).to(self.null_space.directions)
        return self.null_space.energy(flat), self.null_space.signal_energy(flat)

    @property
    def isotropic_energy(self) -> float:
        """Share of an isotropic vector that lies in the null space."""
        if self.settings.method == "flat":
            return self.flat_settings.fraction
        return self.settings.directions / sum(p.numel() for p in self.null_parameters.values())

    def _measure_null_space(self) -> None:
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
        if self.settings.method == "flat":
            return self._basis_depends_on() | {"seed": self.seed, "fraction": self.flat_settings.fraction, "hvp": self.hvp}
        device = self.subject.device
        return {
            "subject": self.subject.sha256,
            "spec": asdict(replace(self.spec, name="", gradient_checkpointing=False)),
            "seed": self.seed,
            "text": self.text.sha256,
            "block": self.text.block,
            "begin": self.subject.begin,
            "settings": asdict(replace(self.settings, offload=False)),
            "hvp": self.hvp,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }

    def calibration_losses(self) -> Losses:
        """Mean negative log-likelihood of the calibration text, in its parts."""
        return self.losses_on(self.calibration, self.settings.microbatch or len(self.calibration), mean=True)

    def synthesise(self, seed: int, stimulus: Stimulus | None = None) -> tuple[dict[Made, StimulusData], list[dict[str, Any]]]:
        """Stimuli for one seed, and a row for each with its share of gradient energy in the null space.

        Where they are to be compared all are made, and the baseline `random_swap`; the anti-catalyst is another control of the
        flat subspace, and is made for explicit directions only where a run is about it.

        Args:
            seed: of the stimuli.
            stimulus: what the run is about.
        """
        names: list[Made] = [stimulus] if stimulus else []
        if self.stimuli.compare or not stimulus:
            left_out = "anti_catalyst" if self.settings.method == "krylov" and stimulus != "anti_catalyst" else ""
            names = [*(name for name in get_args(Stimulus) if name != left_out), "random_swap"]
        depends_on = {**self._depends_on(), "stimuli": asdict(self.stimuli), "stimulus_seed": seed, "names": names}
        with self.record.timed("stimuli"):
            tensors, rows = self.shared("stimuli", depends_on, lambda: self._synthesise(seed, names))
        return {name: StimulusData(tensors[name], tensors.get(f"{name}.embeddings")) for name in names}, rows

    def _synthesise(self, seed: int, names: Collection[Made]) -> Parts:
        subject, settings = self.subject, self.stimuli
        n, length = settings.sequences, settings.tokens
        allowed = allowed_tokens(subject)
        start = random_tokens(allowed, n, length, generator(seed, "random_tokens"))
        space = self.null_space or self.flat
        assert space is not None
        energy = EnergyObjective(subject, self.null_parameters, space, self.hvp)
        against = EnergyObjective(subject, self.null_parameters, space, self.hvp, sign=-1)
        searches: dict[Made, tuple[Search, Objective]] = {
            "eigen_prion": (guided_search, energy),
            "loss_ascent": (guided_search, LossObjective(subject)),
            "random_swap": (random_swap_search, energy),
            "anti_catalyst": (guided_search, against),
        }
        made: dict[Made, StimulusData] = {}
        rows = []
        wanted = [name for name in searches if name in names]
        with self.progress("catalysts", len(wanted) * settings.evaluations * n) as progress:
            for name in [*wanted, *(name for name in names if name not in searches)]:
                catalysts = []
                if name in searches:
                    search, objective = searches[name]
                    catalysts = [
                        search(objective, row, allowed, settings.evaluations, generator(seed, name, str(i)), progress.advance)
                        for i, row in enumerate(start.tokens.to(subject.device))
                    ]
                    made[name] = StimulusData(torch.stack([c.tokens for c in catalysts]).cpu())
                else:
                    made[name] = self._control(name, seed, start, allowed)
                rows.append(self._row(seed, name, made[name], catalysts))
        rows.sort(key=lambda row: list(names).index(row["stimulus"]))
        tensors = {str(name): data.tokens for name, data in made.items()}
        tensors |= {f"{name}.embeddings": data.embeddings for name, data in made.items() if data.embeddings is not None}
        return tensors, rows

    def _control(self, name: Made, seed: int, start: StimulusData, allowed: Tensor) -> StimulusData:
        """A stimulus that is drawn, not searched for."""
        subject, n, length = self.subject, self.stimuli.sequences, self.stimuli.tokens
        match name:
            case "random_tokens":
                return start
            case "gaussian_noise":
                return gaussian_noise(subject, allowed, n, length, generator(seed, "gaussian_noise"))
            case "published_noise":
                return published_noise(subject, allowed, n, length, generator(seed, "gaussian_noise"))
            case _:
                return random_text(self.attack_stream, n, length, generator(seed, "random_text"))

    def _row(self, seed: int, name: str, data: StimulusData, searches: list[Catalyst]) -> dict[str, Any]:
        loss = data.loss(self.subject)
        gradient = torch.autograd.grad(loss, list(self.null_parameters.values()))
        null, signal = self.null_energies(dict(zip(self.null_parameters, gradient, strict=True)))
        row = {
            "seed": seed,
            "stimulus": name,
            "null_energy": null,
            "signal_energy": signal,
            "gradient_norm": float(torch.nn.utils.get_total_norm(gradient)),
            "nats_per_token": float(loss.detach()),
        }
        if searches:
            row["evaluations"] = sum(s.evaluations for s in searches)
            row["tokens_changed"] = sum(s.changed for s in searches) / len(searches)
        return row
