"""Clean fine-tuning: of an intact subject, or, to heal it, of an attacked one."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.training import TrainingModule
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalog import OptimizerName
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject
from lit_degrade.text import RandomWindows, TextSource


class FinetuneModule(TrainingModule):
    """Train a subject on random windows of the train split.

    Where the subject is the outcome of an attack (`--attacked_by`, or a `--subject` taken from a record or an artifact), the
    summary also says how much of the damage came back.
    """

    verbs = ("fit",)
    headline = ("perplexity_pre", "perplexity_post", "perplexity_intact", "recovery", "recovery_rank", "drift")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-4,
        batch: int = 8,
        block: int = 128,
    ) -> None:
        """Describe the training.

        Args:
            subject: the patient.
            text: train and probe text.
            seed: of the windows (and of new adapters' initial values).
            optimizer: how it is trained.
            lr: learning rate.
            batch: windows per step.
            block: tokens per window.
        """
        super().__init__(subject, text, seed)
        self.optimizer = optimizer
        self.lr = lr
        self.batch = batch
        self.block = block

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        self.check_lr()
        if self.optimizer == "sgd_matched":
            raise UserError("optimizer 'sgd_matched' rehearses on one stimulus; fine-tuning has none. Use another optimizer.")
        if self.batch < 1 or self.block < 2:
            raise UserError(f"model.batch must be at least 1 and model.block at least 2, not {self.batch} and {self.block}.")
        self.spec.refuse_untrainable()
        self.text.documents  # noqa: B018 (an unreadable text is found before a large model is loaded)
        self.adopt(load_subject(self.spec, self.seed, device, train=True))
        self.train_ids = self.text.tokens("train", self.subject.tokenizer).ids
        if len(self.train_ids) < self.block:
            raise UserError(f"The train split has {len(self.train_ids)} tokens; a window needs {self.block}.")
        self.record.add(optimizer=self.optimizer, lr=self.lr, batch=self.batch, tokens=self.block)

    def on_fit_start(self) -> None:
        """Say in the record how gradients are clipped."""
        self.record.add(gradient_clip=self.trainer.gradient_clip_val or None)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Random windows of the train split."""
        windows = RandomWindows(self.train_ids, self.block, self.batch, generator(self.seed, "windows"))
        return DataLoader(windows, batch_size=None)

    def loss(self, batch: Tensor) -> Tensor:
        """Mean negative log-likelihood of a batch of windows [nats/token]."""
        return token_nll(self.model(input_ids=batch, use_cache=False).logits, batch).mean()
