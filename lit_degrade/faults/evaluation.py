"""What single flips cost: many in one forward pass, each in its own copy of the text, exactly as if the bit had flipped."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.faults.flips import Flip, check_flips, flipped, flipped_values
from lit_degrade.measures.perplexity import BATCH_TOKENS, batches, token_nll
from lit_degrade.perturbations.storage import stored
from lit_degrade.subjects.loading import Subject


def evaluate_flips(
    subject: Subject, ids: Tensor, flips: Sequence[Flip], done: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Mean negative log-likelihood [nats/token] of a text under each flip alone, (k,) float64; inf and NaN are kept.

    Flips of one linear layer of float weights (or of its bias) share forward passes: each copy of the text along the batch has
    the one output channel that its flip changes computed from the changed row, x w' + b', with products summed in float32 and
    rounded once, as a matrix product does. Flips of anything else (embeddings, norms, quantised codes) are really made, one
    after the other. Either way whatever had finished before the changed layer began answers with what it answered for the
    intact subject.

    Args:
        subject: restored when this returns, bit for bit.
        ids: sequences (n, length) int64; every token but the first of each is scored.
        flips: single flips.
        done: called with the number of flips that have been evaluated on a batch of sequences (see `passes`).

    Raises: UserError for a flip that does not exist.
    """
    check_flips(subject, flips)  # int8 codes get their place here, which inference mode would mark as its own
    with torch.inference_mode():
        return _evaluate(subject, ids, flips, done)


def passes(ids: Tensor, flips: Sequence[Flip]) -> int:
    """The sum of the numbers that `evaluate_flips` calls `done` with."""
    return len(flips) * sum(1 for _ in batches(ids))


def _evaluate(subject: Subject, ids: Tensor, flips: Sequence[Flip], done: Callable[[int], None]) -> Tensor:
    by_layer: dict[nn.Module, list[int]] = {}
    for i, flip in enumerate(flips):
        by_layer.setdefault(subject.model.get_submodule(flip.parameter.rpartition(".")[0]), []).append(i)
    sums = torch.zeros(len(flips), dtype=torch.float64)
    training = subject.model.training
    subject.model.eval()
    try:
        for batch in batches(ids):
            text = _Text(subject, batch.to(subject.device))
            for layer, own in by_layer.items():
                place = _Place(text, layer)
                for chunk in torch.tensor(own).split(text.copies if place.batched else 1):
                    sums[chunk] += place.nll([flips[i] for i in chunk.tolist()])
                    done(len(chunk))
    finally:
        subject.model.train(training)
    return sums / ids[:, 1:].numel()


def _is_batched(subject: Subject, layer: Any) -> bool:
    """Whether copies of the text can each have a flip in this layer: a product with float weights that no other layer has."""
    kind = type(layer).__name__
    if kind not in ("Linear", "Conv1D", "FalconLinear") or not layer.weight.is_floating_point():
        return False
    if kind == "FalconLinear" and layer.bias is not None and layer.weight.dtype != torch.float32:
        return False  # it rounds twice
    return _is_alone(subject, layer)


def _is_alone(subject: Subject, layer: nn.Module) -> bool:
    """Whether no other layer has any of the same parameters."""
    own = {id(p) for p in layer._parameters.values() if p is not None}
    return not any(id(p) in own for m in subject.model.modules() if m is not layer for p in m._parameters.values())


class _Text:
    """A batch of sequences, and what enters and leaves every block of the intact subject."""

    def __init__(self, subject: Subject, tokens: Tensor) -> None:
        """Run the intact subject on tokens (n, length)."""
        self.subject, self.tokens = subject, tokens
        self.copies = max(1, BATCH_TOKENS // tokens.numel())
        self.inputs: dict[nn.Module, Callable[[], Any]] = {}
        self.outputs: dict[nn.Module, Any] = {}
        with ExitStack() as stack:
            for block in subject.anatomy.blocks:
                stack.callback(block.register_forward_hook(self._keep, with_kwargs=True).remove)
            self.logits()

    def _keep(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.inputs[block], self.outputs[block] = partial(block, *args, **kwargs), output

    def logits(self, copies: int = 1) -> Tensor:
        """Of the subject as it is now, (copies n, length, vocabulary)."""
        with self.subject.autocast():
            return self.subject.model(input_ids=self.tokens.repeat(copies, 1), use_cache=False).logits


class _Place:
    """A layer in the forward pass of a text: what had run before it began, what it got, and what it made of it."""

    def __init__(self, text: _Text, layer: Any) -> None:
        """Run the intact block that holds the layer, or all of the subject, and watch."""
        self.text, self.layer = text, layer
        self.batched = _is_batched(text.subject, layer)
        self.answers: dict[nn.Module, Any] = {}
        self.runs: Counter[nn.Module] = Counter()
        self.x = self.y = torch.empty(0)
        blocks = text.subject.anatomy.blocks
        block = next((block for block in blocks if layer in set(block.modules())), None)
        if not _is_alone(text.subject, layer):
            return
        if block is None:
            inside = {module for block in blocks for module in block.modules() if module is not block}
            self._watch(text.logits, [module for module in text.subject.model.modules() if module not in inside])
        else:
            self._watch(text.inputs[block], block.modules())
            before = blocks[: blocks.index(block)]
            self.answers |= {earlier: text.outputs[before[-1]] for earlier in before}

    def _watch(self, run: Callable[[], Any], modules: Iterable[nn.Module]) -> None:
        """Keep what the modules answered that had finished when the layer began, and run only once."""
        outputs: dict[nn.Module, Any] = {}

        def begins(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not self.runs[module]:
                self.x, self.answers = inputs[0], dict(outputs)

        def ends(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.runs[module] += 1
            outputs[module] = _repeated(output, 1, 1)  # a copy: what follows may work in place
            if module is self.layer:
                self.y = outputs[module]

        with ExitStack() as stack, self.text.subject.autocast():
            stack.callback(self.layer.register_forward_pre_hook(begins).remove)
            for module in modules:
                stack.callback(module.register_forward_hook(ends).remove)
            run()
        self.answers = {module: output for module, output in self.answers.items() if self.runs[module] == 1}
        if self.batched and self.runs[self.layer] != 1:
            raise RuntimeError(f"a {type(self.layer).__name__} ran {self.runs[self.layer]} times: expected once a forward pass")

    def nll(self, flips: Sequence[Flip]) -> Tensor:
        """Summed negative log-likelihood (k,) float64 under each of some flips in the layer; of one flip if not batched."""
        copies, n = len(flips), len(self.text.tokens)
        answers = {module: partial(_repeated, output, copies, n) for module, output in self.answers.items()}
        with ExitStack() as stack:
            if self.batched:
                answers[self.layer] = partial(self._changed, flips)
            else:
                stack.enter_context(flipped(self.text.subject, flips))
            stack.enter_context(_answering(answers))
            logits = self.text.logits(copies)
        nll = token_nll(logits, self.text.tokens.repeat(copies, 1))
        return nll.double().view(copies, -1).sum(1).cpu()

    def _changed(self, flips: Sequence[Flip]) -> Tensor:
        """What the layer makes of the intact input with each of some flips, one copy after the other along the batch."""
        kind, copies = self.y.dtype, len(flips)
        with torch.autocast(self.y.device.type, enabled=False):
            channels, rows, biases = self._rows(flips)
            outputs = self.x.reshape(-1, self.x.shape[-1]).to(kind).float() @ rows.to(kind).float().T
            if biases is not None:
                outputs = outputs + biases.to(kind).float()
            y = _repeated(self.y, copies, 1)
            every = torch.arange(copies, device=y.device)
            y.view(copies, -1, y.shape[-1])[every, :, channels] = outputs.to(kind).T
        return y

    def _rows(self, flips: Sequence[Flip]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of each flip the output channel (k,) that it changes, and the changed row of weights (k, inputs) and bias (k,)."""
        subject, turned = self.text.subject, type(self.layer).__name__ == "Conv1D"
        matrix = self.layer.weight.T if turned else self.layer.weight
        places = torch.tensor([flip.index for flip in flips], device=matrix.device)
        bits = torch.tensor([flip.bit for flip in flips], device=matrix.device)
        in_bias = torch.tensor([flip.parameter.endswith(".bias") for flip in flips], device=matrix.device)
        rows_of = self.layer.weight.shape[1]
        channels, inputs = (places % rows_of, places // rows_of) if turned else (places // rows_of, places % rows_of)
        channels = torch.where(in_bias, places, channels)
        rows, biases = matrix[channels], None if self.layer.bias is None else self.layer.bias[channels]
        for name in dict.fromkeys(flip.parameter for flip in flips):
            own = in_bias if name.endswith(".bias") else ~in_bias
            values = flipped_values(stored(subject.model, name), places[own], bits[own]).to(rows.dtype)
            if biases is not None and name.endswith(".bias"):
                biases[own] = values
            else:
                rows[own.nonzero().flatten(), inputs[own]] = values
        return channels, rows, biases


def _repeated(answer: Any, copies: int, n: int) -> Any:
    """What a module would return for copies of n sequences, one copy after the other along the batch: always a copy."""
    if isinstance(answer, tuple):
        return tuple(_repeated(part, copies, n) for part in answer)
    if not isinstance(answer, Tensor):
        return answer
    along = copies if answer.shape[0] % n == 0 else 1  # what has no batch is shared by it
    return answer.repeat(along, *[1] * (answer.dim() - 1))


@contextmanager
def _answering(answers: Mapping[nn.Module, Callable[[], Any]]) -> Iterator[None]:
    """Modules that answer at once instead of running."""
    kept = {module: vars(module).get("forward") for module in answers}
    try:
        for module, answer in answers.items():
            module.forward = partial(_answer, answer)
        yield
    finally:
        for module, forward in kept.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


def _answer(answer: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
    return answer()
