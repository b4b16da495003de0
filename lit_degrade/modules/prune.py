"""Pruning as a run: `fit --config configs/prune.yaml`. Its one step prunes; what is saved is a subject like any other."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import batches, token_nll
from lit_degrade.modules.base import SubjectModule
from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.pruning.prune import prune_, sites_to_prune, stages, totals
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class PruneModule(SubjectModule):
    """Prune a subject by magnitude, Wanda, SparseGPT or any score: single weights, n:m patterns, heads, neurons, layers.

    There is one step, whatever trainer.max_steps and trainer.max_epochs say.
    """

    verbs = ("fit",)
    headline = (
        "method",
        "sparsity_achieved",
        "perplexity_pre",
        "perplexity_post",
        "log_perplexity_ratio",
        "reconstruction_error",
        "relative_norm",
    )

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        prune: PruneSettings = PruneSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the pruning.

        Args:
            subject: the patient, at fp32, bf16 or fp16.
            text: calibration and probe text.
            seed: of the calibration blocks, and of scores that are random.
            prune: which weights become zero.
        """
        super().__init__(subject, text, seed)
        self.automatic_optimization = False
        self.settings = prune
        if subject.precision in ("int8", "nf4"):
            raise UserError(f"precision '{subject.precision}' cannot be pruned: prune first, then quantise what was saved.")

    def prepare(self, device: torch.device) -> None:
        """Load the subject, find what will be pruned, and make sure that the calibration text can be read."""
        self.load(device, train=False)
        sites_to_prune(self.subject, self.settings)
        self.ids = self.drawn_calibration(self.settings.calibration_blocks)
        with torch.inference_mode():
            if not all(bool(token_nll(self.logits(ids), ids.to(device)).isfinite().all()) for ids in batches(self.ids)):
                raise UserError(
                    f"'{self.spec.name}' gives no finite probabilities on the calibration text: nothing to prune by."
                )

    def on_fit_start(self) -> None:
        """One step, and no second one, whatever limits were set."""
        self.trainer.limit_train_batches = 1
        self.trainer.fit_loop.max_epochs = 1
        self.trainer.fit_loop.epoch_loop.max_steps = 1

    def train_dataloader(self) -> DataLoader[Tensor]:
        """The one step."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """It counts the step, and changes nothing."""
        return torch.optim.SGD(self.subject.trainable().values(), lr=0.0)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Prune."""
        with self.progress("pruning", stages(self.subject, self.settings, self.ids)) as bar, self.record.timed("pruning"):
            rows = prune_(self.subject, self.settings, self.ids, self.seed, bar.advance)
        self.record.save_table(tables.PRUNING, [row.row() for row in rows])
        self.record.add(
            method=self.settings.method,
            sparsity=self.settings.share,
            scope=self.settings.compared_in,
            pattern=self.settings.pattern,
            structure=self.settings.structure,
            calibration_tokens=self.ids.numel(),
            **totals(rows),
        )
        self.optimizers().step()  # type: ignore[union-attr]
