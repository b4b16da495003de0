"""The attack: one training step for every stimulus, so that an attack and its placebo differ in their data only."""

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, cast

import torch
from torch import Tensor

from lit_degrade.checks import above, at_least
from lit_degrade.curvature.catalog import Projection
from lit_degrade.curvature.certificates import FlatSettings
from lit_degrade.curvature.null_space import NullSpaceSettings
from lit_degrade.errors import UserError
from lit_degrade.measures.drift import weights_now
from lit_degrade.measures.updates import StepLength
from lit_degrade.modules.optimizers import MatchedSGD, ProjectedSteps, build_optimizer
from lit_degrade.modules.stimulus import Made, StimulusModule, StimulusSettings
from lit_degrade.modules.training import TrainingModule
from lit_degrade.records import paths, tables
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalog import OptimizerName, ProtocolName, Stimulus
from lit_degrade.stimuli.controls import StimulusData, random_text
from lit_degrade.stimuli.protocols import PROTOCOLS, PUBLISHED_SEED
from lit_degrade.stimuli.published import embedding_ascent
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class AttackModule(TrainingModule, StimulusModule):
    """Train a subject on a stimulus."""

    stimulus_data: StimulusData
    verbs = ("fit",)
    headline = (
        "perplexity_pre",
        "perplexity_post",
        "log_perplexity_ratio",
        "kl_from_intact",
        "rank_reduction",
        "drift",
        "path_length",
        "own_step_flat_share",
        "flat_rayleigh_over_whole_held_out",
        "null_ratio_median",
        "null_ratio_random",
        "null_energy_eigen_prion",
        "null_energy_random_swap",
        "null_energy_random_tokens",
        "eigen_prion_wins",
    )

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        stimulus: Stimulus = "eigen_prion",
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-4,
        protocol: ProtocolName = "controlled",
        stimuli: StimulusSettings = StimulusSettings(),  # noqa: B008 (frozen)
        null_space: NullSpaceSettings = NullSpaceSettings(),  # noqa: B008 (frozen)
        projection: Projection = "none",
        flat: FlatSettings = FlatSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the attack.

        Args:
            subject: the patient.
            text: calibration, attack and probe text.
            seed: of every random draw.
            stimulus: what the subject is trained on.
            optimizer: how it is trained.
            lr: learning rate [weight units per normalised step (adaptive optimizers) or per gradient unit (sgd)]; the
                default is the published one for subjects below 1B parameters. `sgd_matched` takes its steps from AdamW at lr.
            protocol: what is done as the published implementation did it (`list protocols`).
            stimuli: shape and cost of every stimulus.
            null_space: method, sizes and budgets of the null space.
            projection: what the steps are confined to (`list projections`); all but `none` move the block matrices only.
            flat: the flat subspace, where the projection or the null space is about it.
        """
        super().__init__(subject, text, seed, stimuli, null_space, flat, flat_too=projection != "none")
        self.projection = projection
        self.stimulus = stimulus
        self.optimizer = optimizer
        self.lr = lr
        self.protocol_name = protocol
        self.protocol = PROTOCOLS[protocol]
        above("model.lr", lr, 0)
        if not stimuli.compare and protocol != "controlled":
            raise UserError(
                f"model.stimuli.compare=false: expected protocol 'controlled', not '{protocol}', which needs controls."
            )
        if projection != "none" and null_space.method == "krylov" and null_space.target != flat.target:
            raise UserError(
                f"model.projection={projection}: expected one target, not model.null_space.target={null_space.target} "
                f"and model.flat.target={flat.target}, since nothing but the latter moves."
            )
        if self.protocol.labels_shifted_twice:  # token t + 2 is scored
            at_least(f"model.stimuli.tokens (protocol '{protocol}')", stimuli.tokens, 3)

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        super().prepare(device)
        if self.projection != "none":
            for name, p in self.subject.trainable().items():
                p.requires_grad_(name in self.flat_parameters)
        self.record.add(
            projection=self.projection,
            stimulus=self.stimulus,
            optimizer=self.optimizer,
            lr=self.lr,
            protocol=self.protocol_name,
        )
        self.optimizer = self.protocol.optimizer(self.stimulus, self.optimizer)
        self.record.add(optimizer_used=self.optimizer)

    def on_fit_start(self) -> None:
        """Find the null space, synthesise the stimulus, and record both."""
        self.measure_geometry()
        if self.projection != "none":
            assert self.flat is not None
            self.projected = ProjectedSteps(self.flat_parameters, self.flat, self.projection)
        stimuli, rows = self.synthesise(self.seed, self.stimulus)
        self.record.save_table(tables.STIMULI, rows)
        self._compare({row["stimulus"]: row for row in rows})
        self.stimulus_data = self._as_the_protocol_has_it(stimuli)
        self.record.add(null_energy=self._row(self.seed, self.stimulus, self.stimulus_data, [])["null_energy"])
        self.record.save_tensors(paths.STIMULUS, self.stimulus_data.tensors(), {"stimulus": self.stimulus})
        text = "\n".join(self.subject.tokenizer.decode(row) for row in self.stimulus_data.tokens)
        self.record.save_text(paths.STIMULUS_TEXT, text)

    def _as_the_protocol_has_it(self, stimuli: Mapping[Made, StimulusData]) -> StimulusData:
        settings, protocol = self.stimuli, self.protocol
        if self.stimulus == "eigen_prion" and protocol.catalyst_by_ascent:
            start = stimuli["random_tokens"].tokens.to(self.subject.device)
            tokens = embedding_ascent(self.subject, start)
            self.record.add(published_catalyst_tokens_changed=float((tokens != start).float().mean()))
            return StimulusData(tokens.cpu())
        if self.stimulus == "gaussian_noise" and protocol.noise_unmatched:
            return stimuli["published_noise"]
        if self.stimulus == "random_text" and protocol.random_text_ignores_seed:
            draws = generator(PUBLISHED_SEED, "random_text")
            return random_text(self.attack_stream, settings.sequences, settings.tokens, draws)
        return stimuli[self.stimulus]

    def _compare(self, rows: dict[str, dict[str, float]]) -> None:
        """Say in the record whether the eigen-prion has the largest share of energy in the null space."""
        energy = {name: row["null_energy"] for name, row in rows.items()}
        self.record.add(
            **{f"null_energy_{name}": value for name, value in energy.items()}, null_energy_isotropic=self.isotropic_energy
        )
        if len(energy) == 1:
            return
        runner_up = max((name for name in energy if name != "eigen_prion"), key=energy.__getitem__)
        self.record.add(
            eigen_prion_wins=energy["eigen_prion"] > energy[runner_up],
            eigen_prion_runner_up=runner_up,
            eigen_prion_tokens_changed=rows["eigen_prion"]["tokens_changed"],
        )

    def train_dataloader(self) -> Iterable[StimulusData]:
        """The stimulus, again at every step; nothing to collate or to prefetch."""
        return repeat(self.stimulus_data)

    def transfer_batch_to_device(self, batch: StimulusData, device: torch.device, dataloader_idx: int) -> StimulusData:
        """A stimulus moves its own tensors."""
        return batch

    def loss(self, batch: StimulusData) -> Tensor:
        """Mean negative log-likelihood of the stimulus [nats/token]."""
        return batch.loss(self.subject, self.protocol.labels_shifted_twice)

    def on_train_start(self) -> None:
        """Rehearse AdamW where its steps are to be matched."""
        optimizer = cast(Any, self.trainer.strategy.optimizers[0])
        if isinstance(optimizer, MatchedSGD):
            optimizer.norms = self._adamw_step_lengths()

    def _adamw_step_lengths(self) -> list[float]:
        """‖Δw‖ of every step that AdamW makes on this subject and stimulus; the weights are put back bit for bit."""
        weights = self.subject.trainable()
        intact = weights_now(self.subject)
        optimizer = build_optimizer("adamw", weights.values(), self.lr)
        length, lengths = StepLength(weights.values()), []
        with self.record.timed("rehearsal"):
            for step in range(self.trainer.max_steps):
                with self.subject.autocast():
                    loss = self.loss(self.stimulus_data)
                (loss * self.loss_scale).backward()
                self.unscale(step)
                length.keep()
                with self.confined():
                    optimizer.step()
                optimizer.zero_grad()
                lengths.append(length.measure())
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(intact[name])
        if self.projected:
            self.projected.forget()
        return lengths

    def on_train_end(self) -> None:
        """Record where confined steps went."""
        if self.projected:
            self.record.add(**self.projected.facts())
