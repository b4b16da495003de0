"""The attack: one training step for every stimulus, so that an attack and its placebo differ in their data only."""

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor

from lit_degrade.curvature.null_space import NullSpaceSettings
from lit_degrade.errors import Diverged, UserError
from lit_degrade.modules.optimizers import build_optimizer
from lit_degrade.modules.stimulus import StimulusModule, StimulusSettings
from lit_degrade.records import paths
from lit_degrade.stimuli.catalog import OptimizerName, Stimulus
from lit_degrade.stimuli.controls import StimulusData
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource

FP16_LOSS_SCALE = 1024.0
"""Keeps small gradients above float16's underflow; a power of two, so that scaling and unscaling are exact."""


class AttackModule(StimulusModule):
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
        stimuli: StimulusSettings = StimulusSettings(),  # noqa: B008 (frozen)
        null_space: NullSpaceSettings = NullSpaceSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the attack.

        Args:
            subject: the patient.
            text: calibration, attack and probe text.
            seed: of every random draw.
            stimulus: what the subject is trained on.
            optimizer: how it is trained.
            lr: learning rate [weight units per normalised step (adaptive optimizers) or per gradient unit (sgd)]; the
                default is the published one for subjects below 1B parameters.
            stimuli: shape and cost of every stimulus.
            null_space: sizes and budgets of the null space.
        """
        super().__init__(subject, text, seed, stimuli, null_space)
        self.stimulus = stimulus
        self.optimizer = optimizer
        self.lr = lr

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        if self.lr <= 0:
            raise UserError(f"model.lr must be above 0, not {self.lr}.")
        super().prepare(device)
        self.record.add(stimulus=self.stimulus, optimizer=self.optimizer, lr=self.lr)

    def on_fit_start(self) -> None:
        """Find the null space, synthesise the stimulus, and record both."""
        self.measure_null_space()
        with self.record.timed("stimuli"):
            stimuli, rows = self.synthesise(self.seed)
        self.record.save_table(paths.STIMULI, rows)
        self._compare({row["stimulus"]: row for row in rows})
        self.stimulus_data = stimuli[self.stimulus]
        self.record.save_tensors(paths.STIMULUS, self.stimulus_data.tensors(), {"stimulus": self.stimulus})
        text = "\n".join(self.subject.tokenizer.decode(row) for row in self.stimulus_data.tokens)
        self.record.save_text(paths.STIMULUS_TEXT, text)

    def _compare(self, rows: dict[str, dict[str, float]]) -> None:
        """Say in the record whether the eigen-prion has the largest share of energy in the null space."""
        energy = {name: row["null_energy"] for name, row in rows.items()}
        runner_up = max((name for name in energy if name != "eigen_prion"), key=energy.__getitem__)
        self.record.add(
            null_energy=energy[self.stimulus],
            **{f"null_energy_{name}": value for name, value in energy.items()},
            null_energy_isotropic=self.settings.directions / sum(p.numel() for p in self.null_parameters.values()),
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer asked for, over everything that may change."""
        return build_optimizer(self.optimizer, self.subject.trainable().values(), self.lr)

    def training_step(self, batch: StimulusData, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the stimulus [nats/token].

        Raises: Diverged when it is not finite.
        """
        with self.subject.autocast():
            loss = batch.loss(self.subject)
        if not torch.isfinite(loss):
            raise Diverged(self.global_step, "training loss")
        self.log_step("train_nats_per_token", loss.item())
        return loss if self._loss_scale == 1.0 else loss * self._loss_scale

    @property
    def _loss_scale(self) -> float:
        return FP16_LOSS_SCALE if self.subject.autocast_dtype == torch.float16 else 1.0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the loss scale, and look at the gradient where no later loss would tell: in float16 and at the last step.

        Raises: Diverged when a gradient is not finite.
        """
        last = self.global_step + 1 == self.trainer.max_steps
        if self._loss_scale == 1.0 and not last:
            return
        gradients = [p.grad for p in self.subject.trainable().values() if p.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise Diverged(self.global_step, "gradient")
        torch._foreach_div_(gradients, self._loss_scale)
