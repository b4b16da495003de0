"""What an attack has done to the subject: perplexity, divergence from the intact subject, drift."""

import math

import lightning.pytorch as pl
from torch import Tensor

from lit_degrade.curvature.products import flatten
from lit_degrade.measures.divergence import kl_divergence, log_probabilities
from lit_degrade.measures.drift import drift, weights_now
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.attack import AttackModule

KL_TOKENS = 2048
"""Probe tokens over which the divergence from the intact subject is averaged."""


class LogDamage(pl.Callback):
    """Measure the subject before and after the attack, and how far its weights moved."""

    def __init__(self) -> None:
        """Nothing is kept until the run starts."""
        self.intact: Tensor | None = None
        self.weights: dict[str, Tensor] = {}
        self.before: Likelihood | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """Measure the intact subject and keep its weights."""
        with pl_module.record.timed("probes"):
            self.before = likelihood(pl_module.logits, pl_module.probe)
            self.intact = log_probabilities(pl_module.logits, self._kl_tokens(pl_module))
            self.weights = weights_now(pl_module.subject)

    def on_train_end(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """Measure the attacked subject."""
        assert self.before is not None
        assert self.intact is not None
        record, subject = pl_module.record, pl_module.subject
        with record.timed("probes"):
            after = likelihood(pl_module.logits, pl_module.probe)
            damaged = log_probabilities(pl_module.logits, self._kl_tokens(pl_module))
            now = dict(subject.model.named_parameters())
            update = {name: now[name].detach().cpu() - self.weights[name] for name in pl_module.null_parameters}
            record.add(
                steps=trainer.global_step,
                probe_tokens=after.tokens,
                **self.before.facts("pre"),
                **after.facts("post"),
                log_perplexity_ratio=after.nats_per_token - self.before.nats_per_token,
                perplexity_increase=_ratio(after.perplexity, self.before.perplexity) - 1,
                kl_from_intact=kl_divergence(self.intact, damaged),
                update_energy_null=pl_module.null_space.energy(flatten(update).to(pl_module.null_space.directions)),
                **drift(subject, self.weights),
            )

    def _kl_tokens(self, module: AttackModule) -> Tensor:
        return module.probe.ids[: max(1, KL_TOKENS // module.text.block)]


def _ratio(a: float, b: float) -> float:
    return a / b if math.isfinite(a) else math.inf
