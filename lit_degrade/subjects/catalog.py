"""Known subjects and the vocabulary of the command line; imports nothing heavy, so `list` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lit_degrade.errors import UserError

Precision = Literal["fp32", "bf16", "fp16", "int8", "nf4"]
Adapter = Literal["full", "lora"]

PRECISIONS: dict[str, str] = {
    "fp32": "32-bit floating point",
    "bf16": "bfloat16 compute, float32 master weights in training",
    "fp16": "IEEE half compute, float32 master weights in training",
    "int8": "bitsandbytes LLM.int8 codes, trained through LoRA",
    "nf4": "bitsandbytes 4-bit NormalFloat codes, trained through LoRA",
}
ADAPTERS: dict[str, str] = {
    "full": "every weight is trained (fp32, bf16, fp16)",
    "lora": "low-rank adapters on the block matrices are trained, the rest is frozen (every precision)",
}
COMPONENTS: dict[str, str] = {
    "embed": "token (and learned position) embeddings",
    "attn_q": "query projections",
    "attn_k": "key projections",
    "attn_v": "value projections",
    "attn_o": "attention output projections",
    "mlp_gate": "gate of a gated MLP",
    "mlp_up": "MLP input projections",
    "mlp_down": "MLP output projections",
    "norm": "normalisation weights and biases",
    "head": "unembedding (absent where it is tied to the embedding)",
}
GROUPS: dict[str, tuple[str, ...]] = {
    "attn": ("attn_q", "attn_k", "attn_v", "attn_o"),
    "mlp": ("mlp_gate", "mlp_up", "mlp_down"),
    "blocks": ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_gate", "mlp_up", "mlp_down"),
}
"""Targets that name several components at once; `blocks` is every matrix of the transformer blocks."""


@dataclass(frozen=True)
class Rung:
    """Shape of one embedded subject and the learning rate it was pretrained with."""

    hidden: int
    layers: int
    heads: int
    lr: float


LADDER: dict[str, Rung] = {
    "tiny-60k": Rung(hidden=24, layers=2, heads=3, lr=6e-3),
    "tiny-250k": Rung(hidden=64, layers=3, heads=4, lr=4e-3),
    "tiny-1m": Rung(hidden=128, layers=4, heads=4, lr=2e-3),
    "tiny-3m": Rung(hidden=192, layers=6, heads=6, lr=1.5e-3),
}
"""Embedded subjects: GPT-NeoX models pretrained on the standard library's documentation (configs/pretrain_tiny.yaml)."""

HUB: dict[str, str] = {
    "pythia-70m": "EleutherAI/pythia-70m",
    "pythia-160m": "EleutherAI/pythia-160m",
    "pythia-410m": "EleutherAI/pythia-410m",
    "pythia-1b": "EleutherAI/pythia-1b",
    "pythia-1.4b": "EleutherAI/pythia-1.4b",
    "pythia-2.8b": "EleutherAI/pythia-2.8b",
    "gpt2": "openai-community/gpt2",
    "gpt-neo-125m": "EleutherAI/gpt-neo-125m",
    "gpt-neo-1.3b": "EleutherAI/gpt-neo-1.3B",
    "gpt-j-6b": "EleutherAI/gpt-j-6b",
    "opt-350m": "facebook/opt-350m",
    "opt-1.3b": "facebook/opt-1.3b",
    "bloom-560m": "bigscience/bloom-560m",
    "bloom-1b1": "bigscience/bloom-1b1",
    "falcon-rw-1b": "tiiuae/falcon-rw-1b",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "gemma-3-4b-it": "google/gemma-3-4b-it",
}
"""Hub subjects by short name; any other hub id (OWNER/NAME) or local folder works too."""

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"


@dataclass(frozen=True)
class SubjectSpec:
    """Which subject, at which precision, with which adapter: everything needed to load it."""

    name: str
    """catalogue name, hub id or folder"""
    precision: Precision = "fp32"
    """compute and storage format"""
    adapter: Adapter = "full"
    """which weights training may change"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about a third more time"""

    def refuse_untrainable(self) -> None:
        """Raise: UserError for a quantised subject without adapters, whose weights no gradient can change."""
        if self.precision in ("int8", "nf4") and self.adapter == "full":
            raise UserError(
                f"precision '{self.precision}' with adapter 'full' cannot be trained: quantised codes have no gradient. "
                f"Use --adapter lora, or one of the precisions {', '.join(get_args(Precision)[:3])}."
            )
