"""Calibration text on its way through a model, one block at a time, and what the matrices of a block see of it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.measures.perplexity import batches
from lit_degrade.subjects.loading import Subject

Moments = dict[str, Tensor]
"""Name of a matrix -> X'X of its inputs over all tokens (inputs, inputs), float32"""


@dataclass(frozen=True)
class Call:
    """What a block is given beside hidden states: masks, positions, rotations."""

    rest: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """Text in front of a block, in batches."""

    hidden: list[Tensor]
    """of every batch (sequences, length, width)"""
    calls: list[list[Call]]
    """of every batch and block"""


@contextmanager
def measuring(subject: Subject) -> Iterator[None]:
    """No gradients, evaluation mode, the subject's own compute precision."""
    training = subject.model.training
    subject.model.eval()
    try:
        with torch.no_grad(), subject.autocast():
            yield
    finally:
        subject.model.train(training)


def entrance(subject: Subject, ids: Tensor) -> Stream:
    """Tokens (n, length) int64 in front of the first block, and how each block was called, from one pass of the model."""
    hidden, calls = [], []
    for batch in batches(ids):
        seen: list[tuple[Tensor, Call]] = []

        def see(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], seen: Any = seen) -> None:
            rest = {key: value for key, value in options.items() if key != "hidden_states"}
            seen.append((args[0] if args else options["hidden_states"], Call(args[1:], rest)))

        with measuring(subject), ExitStack() as hooks:
            for block in subject.anatomy.blocks:
                hooks.callback(block.register_forward_pre_hook(see, with_kwargs=True).remove)
            subject.model(input_ids=batch.to(subject.device), use_cache=False)
        assert len(seen) == len(subject.anatomy.blocks), "every block is called once"
        hidden.append(seen[0][0])
        calls.append([call for _, call in seen])
    return Stream(hidden, calls)


def through(subject: Subject, depth: int, stream: Stream, names: Sequence[str] = ()) -> tuple[Stream, Moments]:
    """Text behind a block as its weights are now, and X'X of the inputs of some of its matrices."""
    moments: Moments = {}
    block = subject.anatomy.blocks[depth]

    def watch(name: str) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].flatten(0, -2).float()
            moments[name] = moments[name].addmm_(x.T, x) if name in moments else x.T @ x

        return see

    hidden = []
    with measuring(subject), ExitStack() as hooks:
        for name in dict.fromkeys(names):
            layer = subject.model.get_submodule(name.rpartition(".")[0])
            hooks.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for states, calls in zip(stream.hidden, stream.calls, strict=True):
            out = block(states, *calls[depth].rest, **calls[depth].options)
            hidden.append(out if isinstance(out, Tensor) else out[0])
    return Stream(hidden, stream.calls), moments
