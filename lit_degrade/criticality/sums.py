"""One pass over text that leaves every sum which scores are made from: inputs, gradients, squared gradients of sequences."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lit_degrade.measures.perplexity import batches, token_nll
from lit_degrade.subjects.loading import Subject

Want = Literal["inputs", "gradient", "squared"]
Tensors = dict[str, Tensor]
CHUNK = 1 << 17
"""Weights whose gradients are held at once on a CPU, so that they stay in its cache (512 kB in float32)."""


@dataclass
class Sums:
    """Sums over sequences of text; two add up to those of both texts."""

    tokens: int = 0
    """scored tokens"""
    sequences: int = 0
    inputs: Tensors = field(default_factory=dict)
    """Σ over tokens of x² of each input feature of a matrix (1, in), or Conv1D (in, 1); uses of each row of an embedding
    (rows, 1); where it is the head too, of each weight (rows, in) what both give; float64"""
    gradient: Tensors = field(default_factory=dict)
    """gradient of the summed loss [nats], as the parameter, float32"""
    squared: Tensors = field(default_factory=dict)
    """Σ over sequences of the squared gradient of their mean loss [(nats/token)²], as the parameter, float32"""
    curvature: Tensors = field(default_factory=dict)
    """estimated Hessian diagonal of the summed loss, as the parameter, float32"""
    variance: Tensors = field(default_factory=dict)
    """squared standard error of that estimate"""

    def add_(self, other: "Sums") -> None:
        """Add the sums of further text; what is not here yet is taken over, so `other` is of no use afterwards."""
        self.tokens += other.tokens
        self.sequences += other.sequences
        for kind in fields(self)[2:]:
            mine: Tensors = getattr(self, kind.name)
            for name, value in getattr(other, kind.name).items():
                mine[name] = mine[name].add_(value) if name in mine else value


def gather(
    subject: Subject, ids: Tensor, names: Sequence[str], wants: set[Want], done: Callable[[], None] = lambda: None
) -> Sums:
    """Pass over text once.

    Gradients of matrices are never formed by autograd: each layer's input x and the loss gradient d of its output give every
    sequence's own d'x, which is added and squared while it is in the cache. So the squared gradients are those of single
    sequences whatever the batch, at the cost of the one product that autograd would have made. A parameter that is used twice
    (a tied embedding) has its uses added up first.

    Args:
        subject: in any format, with or without adapters; its weights are only read.
        ids: sequences (n, length) int64, taken in batches of about BATCH_TOKENS tokens.
        names: of parameters.
        wants: which sums; `inputs` are those of matrices and embeddings.
        done: called after every batch.

    Memory: a float32 copy of the parameters for `gradient` and for `squared` each, on their device, and the activations of
    one batch.
    """
    sums, watch = Sums(), _Watch(subject.model, names, wants)
    differentiate = bool(wants & {"gradient", "squared"})
    with torch.inference_mode(False), torch.set_grad_enabled(differentiate), watch.attached(subject):
        for batch in batches(ids.clone()):
            tokens = batch.to(subject.device)
            watch.sequences, watch.listening = len(tokens), True
            with subject.autocast():
                logits = subject.model(input_ids=tokens, use_cache=False, **watch.positions(tokens)).logits
            watch.listening = False  # layers may be computed again on the way back
            if differentiate:
                token_nll(logits, tokens).sum().backward()
                watch.check()
            sums.tokens += tokens[:, 1:].numel()
            sums.sequences += len(tokens)
            done()
    sums.inputs, sums.gradient, sums.squared = watch.inputs, watch.gradient, watch.squared
    for name in sums.squared:
        sums.squared[name] /= (ids.shape[1] - 1) ** 2
    return sums


class _Use(Protocol):
    """One use of a parameter in a forward pass, with the loss gradient of what came out."""

    def add_(self, to: Tensor, sequence: int, rows: slice) -> None:
        """Add the gradient of a sequence, in these rows of the parameter (n, …) float32."""


@dataclass
class _Product:
    """A matrix (rows, columns) whose gradient is left' right, summed over tokens."""

    left: Tensor
    """(sequences, length, rows) float32"""
    right: Tensor

    def add_(self, to: Tensor, sequence: int, rows: slice) -> None:
        to.addmm_(self.left[sequence, :, rows].T, self.right[sequence])

    def write_(self, to: Tensor, sequence: int, rows: slice) -> None:
        """The same where there is nothing to add to."""
        torch.mm(self.left[sequence, :, rows].T, self.right[sequence], out=to)


@dataclass
class _Rows:
    """An embedding, of which each token uses one row."""

    ids: Tensor
    """(sequences, length)"""
    gradient: Tensor
    """(sequences, length, columns) float32"""

    def add_(self, to: Tensor, sequence: int, rows: slice) -> None:
        ids = self.ids[sequence]
        inside = (ids >= rows.start) & (ids < rows.stop)
        to.index_add_(0, ids[inside] - rows.start, self.gradient[sequence][inside])


@dataclass
class _Bias:
    """Added to every token."""

    gradient: Tensor
    """(sequences, length, features) float32"""

    def add_(self, to: Tensor, sequence: int, rows: slice) -> None:
        to.add_(self.gradient[sequence, :, rows].sum(0))


@dataclass
class _Recomputed:
    """Any other parameter of a small layer, such as a norm: the layer is computed again for one sequence."""

    module: nn.Module
    name: str
    inputs: Tensor
    """(sequences, length, …)"""
    gradient: Tensor

    def add_(self, to: Tensor, sequence: int, rows: slice) -> None:
        parameter: Tensor = getattr(self.module, self.name)
        with torch.enable_grad():
            copy = parameter.detach().float().requires_grad_()
            state = {key: value.detach().float() for key, value in self.module.named_parameters(recurse=False)}
            out = torch.func.functional_call(self.module, state | {self.name: copy}, (self.inputs[sequence].float(),))
            (gradient,) = torch.autograd.grad(out, copy, self.gradient[sequence])
        to.add_(gradient[rows])


class _Watch:
    """Hooks on the layers that hold some parameters."""

    def __init__(self, model: Any, names: Sequence[str], wants: set[Want]) -> None:
        self.model, self.wants = model, wants
        self.inputs: Tensors = {}
        self.gradient: Tensors = {}
        self.squared: Tensors = {}
        self.sequences = 0
        chosen = {id(model.get_parameter(name)): name for name in names}
        self.parameters = {name: model.get_parameter(name) for name in names}
        self.held: dict[nn.Module, dict[str, str]] = {}  # layer -> its own name of a parameter -> the model's
        for module in model.modules():
            own = {key: chosen[id(p)] for key, p in module.named_parameters(recurse=False) if id(p) in chosen}
            if own:
                self.held[module] = own
        self.uses: dict[str, list[_Use]] = {}
        self.expected = dict.fromkeys(names, 0)
        self.listening = False
        for own in self.held.values():
            for name in own.values():
                self.expected[name] += 1

    @contextmanager
    def attached(self, subject: Subject) -> Iterator[None]:
        """Watch; parameters themselves need no gradient meanwhile, and autograd starts at the first watched layer."""
        flags = [(p, p.requires_grad) for p in subject.model.parameters()]
        hooks = [module.register_forward_hook(self._seen, with_kwargs=True) for module in self.held]
        try:
            for p, _ in flags:
                p.requires_grad_(False)
            yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
            for hook in hooks:
                hook.remove()

    def positions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Positions of every sequence for itself where a layer embeds them: models would share them within a batch."""
        entrance = self.model.get_input_embeddings()
        if not any(isinstance(module, nn.Embedding) and module is not entrance for module in self.held):
            return {}
        return {"position_ids": torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)}

    def check(self) -> None:
        """Every use of every parameter has had its gradient."""
        assert not self.uses, f"no gradient for {', '.join(self.uses)}"

    def _seen(self, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        """A layer has been computed."""
        if not self.listening:
            return
        own = self.held[module]
        if "inputs" in self.wants:
            for key, name in own.items():
                self._add_inputs(name, module, key, args, options)
        if torch.is_grad_enabled():
            if not output.requires_grad:
                output.requires_grad_()
            output.register_hook(lambda gradient: self._differentiated(module, own, args, options, gradient))

    def _add_inputs(self, name: str, module: nn.Module, key: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if isinstance(module, nn.Embedding):
            counts = _rows_used(module, args, options).flatten().bincount(minlength=module.num_embeddings).double()
        elif key == "weight" and _is_matrix(module):
            counts = args[0].detach().flatten(0, -2).float().square().sum(0).double()
        else:
            return
        counts = counts[:, None] if isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D" else counts[None]
        self.inputs[name] = self.inputs[name] + counts if name in self.inputs else counts

    def _differentiated(
        self, module: nn.Module, own: dict[str, str], args: tuple[Any, ...], options: dict[str, Any], gradient: Tensor
    ) -> None:
        """The loss gradient of a layer's output has come: its parameters' gradients follow when all their uses are known."""
        d = self._by_sequence(gradient.detach().float())
        for key, name in own.items():
            uses = self.uses.setdefault(name, [])
            uses.append(self._use(module, key, args, options, d))
            if len(uses) == self.expected[name]:
                self._finish(name, self.uses.pop(name))

    def _use(self, module: nn.Module, key: str, args: tuple[Any, ...], options: dict[str, Any], d: Tensor) -> _Use:
        if isinstance(module, nn.Embedding):
            ids = _rows_used(module, args, options)
            return _Rows(ids.reshape(self.sequences, -1), d * getattr(module, "embed_scale", 1.0))
        x = self._by_sequence(args[0].detach())
        if _is_matrix(module):
            if key == "bias":
                return _Bias(d)
            return _Product(x.float(), d) if type(module).__name__ == "Conv1D" else _Product(d, x.float())
        return _Recomputed(module, key, x, d)

    def _by_sequence(self, values: Tensor) -> Tensor:
        """(sequences, tokens, features) of what a model may have flattened or, as heads, unfolded."""
        assert len(values) % self.sequences == 0, "a layer has one value for several sequences"
        return values.reshape(self.sequences, -1, values.shape[-1])

    def _finish(self, name: str, uses: list[_Use]) -> None:
        """Add the gradients of all sequences."""
        parameter = self.parameters[name]
        shape = getattr(getattr(parameter, "quant_state", None), "shape", parameter.shape)  # NF4 is stored as a column of bytes
        for kind in self.wants & {"gradient", "squared"}:
            into = getattr(self, kind)
            if name not in into:
                into[name] = torch.zeros(shape, dtype=torch.float32, device=parameter.device)
        if len(uses) == 1 and isinstance(uses[0], _Rows):
            self._finish_rows(name, uses[0])
            return
        if "squared" not in self.wants and all(isinstance(use, _Product) for use in uses):
            for use in uses:
                self.gradient[name].addmm_(use.left.flatten(0, 1).T, use.right.flatten(0, 1))  # type: ignore[attr-defined]
            return
        step = max(1, CHUNK * shape[0] // shape.numel()) if parameter.device.type == "cpu" else shape[0]
        for start in range(0, shape[0], step):
            rows = slice(start, min(start + step, shape[0]))
            self._finish_chunk(name, uses, rows, torch.empty(rows.stop - start, *shape[1:], device=parameter.device))

    def _finish_chunk(self, name: str, uses: list[_Use], rows: slice, buffer: Tensor) -> None:
        for sequence in range(self.sequences):
            if len(uses) == 1 and isinstance(uses[0], _Product):
                uses[0].write_(buffer, sequence, rows)
            else:
                buffer.zero_()
                for use in uses:
                    use.add_(buffer, sequence, rows)
            self._add(name, rows, buffer)

    def _finish_rows(self, name: str, use: _Rows) -> None:
        """Only rows that a sequence has used have a gradient."""
        for sequence in range(self.sequences):
            rows, places = use.ids[sequence].unique(return_inverse=True)
            buffer = use.gradient.new_zeros(len(rows), use.gradient.shape[-1]).index_add_(0, places, use.gradient[sequence])
            if "gradient" in self.wants:
                self.gradient[name].index_add_(0, rows, buffer)
            if "squared" in self.wants:
                self.squared[name].index_add_(0, rows, buffer.square_())

    def _add(self, name: str, rows: slice, gradient: Tensor) -> None:
        if "gradient" in self.wants:
            self.gradient[name][rows].add_(gradient)
        if "squared" in self.wants:
            self.squared[name][rows].addcmul_(gradient, gradient)


def _is_matrix(module: nn.Module) -> bool:
    """Whether a layer multiplies its input with a matrix (transformers' Conv1D and bitsandbytes' layers too)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _rows_used(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Rows of an embedding that a call looks up; OPT's positions come by name, and two rows further down."""
    return options["position_ids"] + module.offset if hasattr(module, "offset") else args[0]
