"""Clean fine-tuning: of an intact subject, or, to heal it, of an attacked one."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.checks import above, at_least
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.training import TrainingModule
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalog import OptimizerName
from lit_degrade.subjects.catalog import SubjectSpec
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
        keep_zeros: bool = False,
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
            keep_zeros: weights of block matrices that are zero at the start, as a pruned subject's are, stay zero.
        """
        super().__init__(subject, text, seed)
        above("model.lr", lr, 0)
        at_least("model.batch", batch, 1)
        at_least("model.block", block, 2)
        self.optimizer = optimizer
        self.lr = lr
        self.batch = batch
        self.block = block
        self.keep_zeros = keep_zeros
        self.zeros: dict[str, Tensor] = {}

    def prepare(self, device: torch.device) -> None:
        """Load the subject and its texts; check sizes."""
        if self.optimizer == "sgd_matched":
            raise UserError("optimizer 'sgd_matched' rehearses on one stimulus; fine-tuning has none. Use another optimizer.")
        self.spec.refuse_untrainable()
        self.load(device, train=True)
        train = self.text.tokens("train", self.subject.tokenizer)
        self.windows = RandomWindows(train, self.block, self.batch, generator(self.seed, "windows"))
        if self.keep_zeros:
            self._find_zeros()
        self.record.add(optimizer=self.optimizer, lr=self.lr, batch=self.batch, tokens=self.block, keep_zeros=self.keep_zeros)

    def _find_zeros(self) -> None:
        if self.subject.spec.adapter == "lora":
            raise UserError("model.keep_zeros: LoRA adapters are added to every weight, zeros too. Use --adapter full.")
        named = dict(self.subject.model.named_parameters())
        self.zeros = {name: named[name].detach() == 0 for name in self.subject.anatomy.parameter_names("blocks")}

    def _sparsity(self, when: str) -> dict[str, float]:
        """Share of the weights of block matrices that are zero, where these weights are what is trained."""
        if self.subject.spec.adapter == "lora":
            return {}
        named = dict(self.subject.model.named_parameters())
        matrices = [named[name] for name in self.subject.anatomy.parameter_names("blocks")]
        return {f"sparsity_{when}": sum(int((p == 0).sum()) for p in matrices) / sum(p.numel() for p in matrices)}

    def on_fit_start(self) -> None:
        """Say in the record how gradients are clipped, and how many weights are zero."""
        self.record.add(gradient_clip=self.trainer.gradient_clip_val or None, **self._sparsity("pre"))

    def on_train_end(self) -> None:
        """How many are zero now."""
        self.record.add(**self._sparsity("post"))

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """A step of the optimizer, after which weights that are to stay zero are."""
        super().optimizer_step(*args, **options)
        with torch.no_grad():
            for name, zero in self.zeros.items():
                self.subject.model.get_parameter(name).masked_fill_(zero, 0.0)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Random windows of the train split."""
        return DataLoader(self.windows, batch_size=None)

    def loss(self, batch: Tensor) -> Tensor:
        """Mean negative log-likelihood of a batch of windows [nats/token]."""
        return token_nll(self.model(input_ids=batch, use_cache=False).logits, batch).mean()
