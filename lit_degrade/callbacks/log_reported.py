"""What a protocol would have reported, beside what is true."""

import math

import lightning.pytorch as pl

from lit_degrade.measures.effective_rank import effective_rank, hidden_spectra
from lit_degrade.measures.perplexity import likelihood, perplexity_of
from lit_degrade.measures.published import nats_two_ahead, padded_texts, rank_with_cut
from lit_degrade.modules.attack import AttackModule


class LogReported(pl.Callback):
    """Measure perplexity and rank the way the run's protocol does, before and after: the columns `reported_*`.

    Under `controlled` they equal `perplexity_*`, `effective_rank_*` of the last layer and `rank_reduction`.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """Before."""
        self.before = self._measure(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """After."""
        after = self._measure(pl_module)
        reduction = 1 - after[1] / self.before[1] if self.before[1] > 0 else math.nan
        pl_module.record.add(
            reported_perplexity_pre=self.before[0],
            reported_perplexity_post=after[0],
            reported_log_perplexity_ratio=math.log(after[0] / self.before[0]) if after[0] < math.inf else math.inf,
            reported_rank_pre=self.before[1],
            reported_rank_post=after[1],
            reported_rank_reduction=reduction,
            reported_rank_change_absolute=abs(reduction),
        )

    @staticmethod
    def _measure(module: AttackModule) -> tuple[float, float]:
        """Perplexity, and effective rank behind the last block."""
        with module.record.timed("probes"):
            if module.protocol.labels_shifted_twice:
                perplexity = perplexity_of(nats_two_ahead(module.logits, module.probe.ids))
            else:
                perplexity = likelihood(module.logits, module.probe).perplexity
            if module.protocol.rank_over_padding:
                blocks = module.subject.anatomy.blocks[-1:]
                rank = rank_with_cut(hidden_spectra(module.logits, blocks, padded_texts(module.probe.ids))[0].sigma)
            else:
                rank = effective_rank(module.hidden_spectra()[-1].sigma)
        return perplexity, rank
