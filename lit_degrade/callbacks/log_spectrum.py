"""Effective rank of every layer before, during and after an attack."""

import lightning.pytorch as pl
from torch import Tensor

from lit_degrade.checks import at_least
from lit_degrade.measures.effective_rank import LayerSpectrum, effective_rank, rank_reduction
from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import paths
from lit_degrade.subjects.lineage import recovery


class LogSpectrum(pl.Callback):
    """Log the effective rank of the probe's hidden states and keep the spectra.

    The headline, `rank_reduction`, is the signed relative fall at the last block: negative where rank rose. The absolute value
    is offered beside it, labelled.
    """

    def __init__(self, every: int = 25) -> None:
        """Measure before, after, and every `every` steps between."""
        at_least("trainer.callbacks.every (LogSpectrum)", every, 1)
        self.every = every
        self.kept: dict[str, Tensor] = {}
        self.before: list[LayerSpectrum] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Before."""
        self.before = self._measure(pl_module, 0)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: SubjectModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """During."""
        step = trainer.global_step
        if step % self.every == 0 and step != trainer.max_steps:
            self._measure(pl_module, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """After: log, compare, and write every spectrum."""
        after = self._measure(pl_module, trainer.global_step)
        facts: dict[str, float] = {}
        for a, b in zip(self.before, after, strict=True):
            facts[f"rank_reduction_layer{a.depth}"] = rank_reduction(a, b)
        for when, spectra in (("pre", self.before), ("post", after)):
            for spectrum in spectra:
                facts |= {f"{name}_{when}_layer{spectrum.depth}": value for name, value in spectrum.measures().items()}
        last = facts[f"rank_reduction_layer{after[-1].depth}"]
        pl_module.record.add(
            rank_reduction=last,
            rank_change_absolute=abs(last),
            rank_layer=after[-1].depth,
            rank_tokens=after[-1].n_tokens,
            **facts,
        )
        intact = pl_module.measured_when_intact("effective_rank")
        if intact is not None:
            ranks = (effective_rank(spectra[-1].sigma) for spectra in (self.before, after))
            pl_module.record.add(effective_rank_intact=intact, recovery_rank=recovery(intact, *ranks))
        pl_module.record.save_tensors(paths.SPECTRA, self.kept)

    def _measure(self, module: SubjectModule, step: int) -> list[LayerSpectrum]:
        spectra = module.hidden_spectra()
        self.kept |= {f"step{step:05d}/layer{s.depth:02d}": s.sigma for s in spectra}
        for s in spectra:
            module.log_now(f"effective_rank_layer{s.depth}", effective_rank(s.sigma), step)
        return spectra
