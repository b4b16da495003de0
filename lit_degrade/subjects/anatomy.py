"""Which parameter is what: component, depth and the exact slice, for every supported architecture."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lit_degrade.errors import UserError, unknown
from lit_degrade.subjects.catalog import COMPONENTS, GROUPS

Kind = Literal["weight", "bias", "adapter"]

MODULES: dict[str, str] = {
    "embed_in": "embed", "wte": "embed", "wpe": "embed", "embed_tokens": "embed", "embed_positions": "embed",
    "word_embeddings": "embed", "project_in": "embed",
    "embed_out": "head", "lm_head": "head", "project_out": "head",
    "query_key_value": "attn_qkv", "c_attn": "attn_qkv", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
    "out_proj": "attn_o", "o_proj": "attn_o", "attention.dense": "attn_o", "self_attention.dense": "attn_o",
    "attn.c_proj": "attn_o",
    "dense_h_to_4h": "mlp_up", "mlp.c_fc": "mlp_up", "fc_in": "mlp_up", "fc1": "mlp_up", "up_proj": "mlp_up",
    "gate_proj": "mlp_gate",
    "dense_4h_to_h": "mlp_down", "mlp.c_proj": "mlp_down", "fc_out": "mlp_down", "fc2": "mlp_down", "down_proj": "mlp_down",
}  # fmt: skip
"""Last one or two parts of a module's name -> component."""

FAMILIES = [
    "gpt_neox", "gpt2", "gpt_neo", "gptj", "opt", "bloom", "falcon", "llama", "mistral", "gemma3_text", "gemma3",
]  # fmt: skip
"""Model types whose anatomy is known and tested."""

_BLOCK = re.compile(r"^(?P<stack>.*?(?:^|\.)(?:layers|h))\.(?P<depth>\d+)(?:\.|$)")
_VISION = re.compile(r"(^|\.)(vision_tower|vision_model|multi_modal_projector)\.")


@dataclass(frozen=True)
class Part:
    """A range along one sub-dimension of a fused axis: `unflatten(axis, shape)`, then `[start:stop]` of dimension `dim`."""

    axis: int
    shape: tuple[int, ...]
    dim: int
    start: int
    stop: int


@dataclass(frozen=True)
class Site:
    """One named place in the weights: a whole parameter, or the exact part of a fused one."""

    parameter: str
    """name in `model.named_parameters()`"""
    component: str
    """key of COMPONENTS, or `adapter`"""
    depth: int | None
    """index of the transformer block, counted from the input; None outside the blocks"""
    kind: Kind
    part: Part | None = None
    """which part of a fused matrix; None for all of it"""
    input_axis: int = -1
    """along which the inputs of one output lie, in the shape of `view`: 0 in GPT-2's Conv1D, which is stored (in, out)"""

    def view(self, tensor: Tensor) -> Tensor:
        """The site's elements as a view of its parameter (or of a tensor of the same shape): writing to it writes there."""
        if self.part is None:
            return tensor
        axis = self.part.axis if tensor.dim() > 1 else 0
        parts = tensor.unflatten(axis, self.part.shape)
        return parts.narrow(axis + self.part.dim, self.part.start, self.part.stop - self.part.start)


class Anatomy:
    """Sites of a causal language model by component and depth; the vision side of an image-text model has none."""

    def __init__(self, model: Any) -> None:
        """Read the parameter names of `model` (with or without PEFT adapters).

        Raises: UserError when the architecture is unknown, naming it and the known ones.
        """
        config = model.config
        self.family: str = config.model_type
        if self.family not in FAMILIES:
            raise unknown("architecture", self.family, FAMILIES)
        self.config: Any = getattr(config, "text_config", None) or config
        self.transposed = {name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}
        self.sites = [site for name, _ in model.named_parameters() for site in self._classify(name)]
        self.blocks = self._find_blocks(model)

    @property
    def components(self) -> list[str]:
        """Components that this subject has, in the order of COMPONENTS."""
        present = {site.component for site in self.sites}
        return [component for component in COMPONENTS if component in present]

    def select(self, target: str, depths: Sequence[int] | None = None, kinds: Sequence[Kind] = ("weight",)) -> list[Site]:
        """Sites of a target: a component or a group of them, at the given depths (default all).

        Raises: UserError for an unknown target, one that this architecture lacks, or a depth that does not exist.
        """
        available = [*self.components, *(group for group, parts in GROUPS.items() if set(parts) & set(self.components))]
        if target not in available:
            raise unknown(f"target for {self.family}", target, available)
        n_blocks = len(self.blocks)
        for depth in depths or ():
            if not 0 <= depth < n_blocks:
                raise UserError(f"Layer {depth} does not exist: {self.family} subject with layers 0 to {n_blocks - 1}.")
        wanted = GROUPS.get(target, (target,))
        return [
            site
            for site in self.sites
            if site.component in wanted and site.kind in kinds and (depths is None or site.depth in depths)
        ]

    def parameter_names(self, target: str) -> list[str]:
        """Distinct names of the matrices that hold a target, in model order."""
        return list(dict.fromkeys(site.parameter for site in self.select(target)))

    @property
    def rotary_dims(self) -> int:
        """How many leading dimensions of each attention head are rotated by position; 0 with learned or linear positions."""
        config = self.config
        if self.family == "gptj":
            return config.rotary_dim
        if self.family in ("gpt2", "gpt_neo", "opt", "bloom") or (self.family == "falcon" and config.alibi):
            return 0
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = getattr(config, "rope_parameters", None) or {}
        return int(head_dim * rope.get("partial_rotary_factor", 1.0))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    def _classify(self, name: str) -> Iterator[Site]:
        """Sites inside one parameter."""
        if _VISION.search(name) or ".original_module." in name:  # the latter is what PEFT keeps and no longer uses
            return
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".modules_to_save.default", "")
        block = _BLOCK.match(plain)
        depth = int(block["depth"]) if block else None
        if ".lora_" in plain:
            yield Site(name, "adapter", depth, "adapter")
            return
        *path, leaf = plain.split(".")
        kind: Kind = "bias" if leaf == "bias" else "weight"
        component = MODULES.get(".".join(path[-2:])) or MODULES.get(path[-1])
        if component is None and ("norm" in path[-1] or path[-1].startswith("ln_")):
            component = "norm"
        if component is None:
            raise UserError(f"Parameter '{name}' of a {self.family} model has no known component.")
        transposed = name.rpartition(".")[0] in self.transposed
        input_axis = 0 if transposed and kind == "weight" else -1
        if component == "attn_qkv":
            for letter, part in self._fused_parts(transposed).items():
                yield Site(name, f"attn_{letter}", depth, kind, part, input_axis)
        else:
            yield Site(name, component, depth, kind, None, input_axis)

    def _fused_parts(self, transposed: bool) -> dict[str, Part]:
        """Where Q, K and V lie in a fused projection (Hugging Face layouts, read from each model's own `_split_heads`)."""
        config = self.config
        heads, dim = config.num_attention_heads, self.head_dim
        if self.family == "gpt2":  # thirds of the output axis, the second of a Conv1D
            return {letter: Part(int(transposed), (3, heads * dim), 0, i, i + 1) for i, letter in enumerate("qkv")}
        if self.family == "falcon" and config.new_decoder_architecture:  # per key-value group: queries, key, value
            groups = config.num_kv_heads
            queries = heads // groups
            bounds = {"q": (0, queries), "k": (queries, queries + 1), "v": (queries + 1, queries + 2)}
            return {letter: Part(0, (groups, queries + 2, dim), 1, *b) for letter, b in bounds.items()}
        if self.family == "falcon" and config.multi_query:  # all queries, one key, one value
            bounds = {"q": (0, heads), "k": (heads, heads + 1), "v": (heads + 1, heads + 2)}
            return {letter: Part(0, (heads + 2, dim), 0, *b) for letter, b in bounds.items()}
        return {letter: Part(0, (heads, 3, dim), 1, i, i + 1) for i, letter in enumerate("qkv")}  # interleaved per head

    def _find_blocks(self, model: Any) -> list[nn.Module]:
        """Transformer blocks of the text tower, in order."""
        by_depth: dict[int, nn.Module] = {}
        for name, module in model.named_modules():
            match = _BLOCK.match(name)
            if match and match.end() == len(name) and not _VISION.search(name):
                by_depth[int(match["depth"])] = module
        return [by_depth[depth] for depth in sorted(by_depth)]
