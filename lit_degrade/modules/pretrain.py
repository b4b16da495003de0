"""Pretraining of an embedded subject on text: `fit --config configs/pretrain_tiny.yaml`."""

import json
import platform
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.checks import above, at_least, finite, share
from lit_degrade.errors import Diverged, unknown
from lit_degrade.measures.perplexity import likelihood, token_nll
from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import paths
from lit_degrade.seeds import derive, generator
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.catalog import LADDER, Rung, SubjectSpec
from lit_degrade.subjects.loading import Subject, weights_sha256
from lit_degrade.text import RandomWindows, TextSource

END_OF_TEXT = "<|endoftext|>"
LEAST_VOCABULARY = 257
"""Every byte, and the end of a text."""


def train_tokenizer(documents: list[str], vocabulary: int, context: int) -> Any:
    """Byte-level BPE (Sennrich et al. 2016; GPT-2's byte alphabet) over `documents`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=context
    )


def build_model(rung: Rung, vocabulary: int, context: int, dropout: float, seed: int) -> Any:
    """Randomly initialised GPT-NeoX of one rung of the ladder."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=rung.hidden,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        intermediate_size=4 * rung.hidden,
        max_position_embeddings=context,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        bos_token_id=0,
        eos_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng():  # the library initialises from the global state only
        torch.manual_seed(derive(seed, "init"))
        return GPTNeoXForCausalLM(config)


class PretrainModule(SubjectModule):
    """Train a GPT-NeoX of the embedded ladder from random weights, with its tokenizer, and save it in half precision."""

    verbs = ("fit",)
    headline = ("n_parameters", "steps", "tokens_seen", "perplexity_post", "bits_per_byte_post", "token_accuracy_post")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        vocabulary: int = 1024,
        context: int = 256,
        batch: int = 16,
        lr: float | None = None,
        weight_decay: float = 0.1,
        dropout: float = 0.1,
        warmup_steps: int = 50,
    ) -> None:
        """Describe the training.

        Args:
            subject: a rung of the ladder (`list subjects`).
            text: train and probe text.
            seed: of tokenizer-independent draws: initial weights, windows, dropout.
            vocabulary: tokens of the byte-level BPE tokenizer.
            context: length of a window, and the longest input of the subject.
            batch: windows per step.
            lr: peak learning rate of AdamW with linear warm-up and cosine decay; default the rung's own.
            weight_decay: decoupled, on matrices only.
            dropout: in training, on hidden states and attention.
            warmup_steps: steps of linear warm-up.
        """
        super().__init__(subject, text, seed)
        at_least("model.vocabulary", vocabulary, LEAST_VOCABULARY)
        at_least("model.context", context, 2)
        at_least("model.batch", batch, 1)
        if lr is not None:
            above("model.lr", lr, 0)
        finite("model.weight_decay", weight_decay, 0)
        share("model.dropout", dropout)
        at_least("model.warmup_steps", warmup_steps, 0)
        self.vocabulary = vocabulary
        self.context = context
        self.batch = batch
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.warmup_steps = warmup_steps

    def prepare(self, device: torch.device) -> None:
        """Train the tokenizer and initialise the model."""
        if self.spec.name not in LADDER:
            raise unknown("rung of the embedded ladder", self.spec.name, LADDER)
        rung = LADDER[self.spec.name]
        tokenizer = train_tokenizer(self.text.split("train"), self.vocabulary, self.context)
        model = build_model(rung, self.vocabulary, self.context, self.dropout, self.seed).to(device)
        self.adopt(Subject(self.spec, model, tokenizer, Anatomy(model), weights_sha256(model), None))
        train = self.text.tokens("train", tokenizer)
        self.windows = RandomWindows(train, self.context, self.batch, generator(self.seed, "windows"))
        self.peak_lr = self.lr or rung.lr

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Random windows of the train split."""
        return DataLoader(self.windows, batch_size=None)

    def configure_optimizers(self) -> Any:
        """AdamW (betas 0.9, 0.95; Brown et al. 2020), warm-up, cosine to a tenth."""
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.peak_lr, betas=(0.9, 0.95), fused=True)
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
            return 0.55 + 0.45 * float(torch.cos(torch.tensor(progress * torch.pi)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of a batch [nats/token]."""
        self.model.train()
        loss = token_nll(self.model(input_ids=batch).logits, batch).mean()
        if not torch.isfinite(loss):
            raise Diverged(self.global_step, "training loss")
        self.log_step("train_nats_per_token", loss.item())
        return loss

    def on_fit_end(self) -> None:
        """Round to half precision, measure what is shipped, and save it with its model card."""
        self.model.half().float().eval()
        measured = likelihood(self.logits, self.probe)
        self.record.add(
            **measured.facts("post"), steps=self.global_step, tokens_seen=self.global_step * self.batch * self.context
        )
        self.model.half()
        self.model.config.dtype = torch.float16
        card = {
            "subject": self.spec.name,
            "architecture": "GPT-NeoX",
            "parameters": self.record.summary["n_parameters"],
            "corpus": f"text source '{self.text.source}', train split",
            "corpus_sha256": self.text.sha256,
            "python": platform.python_version(),
            "train_tokens": len(self.windows.stream.ids),
            "steps": self.global_step,
            "tokens_seen": self.record.summary["tokens_seen"],
            "seed": self.seed,
            "probe_tokens": measured.tokens,
            "held_out_perplexity": round(measured.perplexity, 4),
            "held_out_bits_per_byte": round(measured.bits_per_byte, 4),
            "held_out_token_accuracy": round(measured.token_accuracy, 4),
        }
        with self.record.whole(paths.SUBJECT) as folder:
            self.subject.save(folder)
            (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
