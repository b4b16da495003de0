"""Benchmarks with right answers: their names, their items, and local files of them; imports nothing heavy."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError, unknown

HERE = Path(__file__).parent
HARNESS = "lm_eval:"
"""Before the name of a task of lm-evaluation-harness."""
BENCHMARKS: dict[str, str] = {
    "hellaswag": "which of four endings follows: 40 own items, or HellaSwag's JSONL by hellaswag=FILE; chance 0.25",
    "lambada": "the last word of a passage: 40 own passages, or LAMBADA's JSONL by lambada=FILE",
    f"{HARNESS}TASK": "a task of lm-evaluation-harness, where it is installed: pip install 'lit_degrade[lm-eval]'",
}


@dataclass(frozen=True)
class Item:
    """A context, and what could follow it."""

    context: str
    choices: tuple[str, ...]
    """without the space before them; one only where it is to be foretold word for word"""
    gold: int
    """index of the right one"""


@dataclass(frozen=True)
class Benchmark:
    """Items that are scored together."""

    name: str
    """hellaswag or lambada"""
    items: tuple[Item, ...]
    sha256: str
    """hash of the file"""


@dataclass(frozen=True)
class Named:
    """A benchmark that a user asked for."""

    name: str
    """hellaswag, lambada, or lm_eval:TASK"""
    file: Path | None
    """None for a task of lm-evaluation-harness"""


def choose_benchmarks(asked: Sequence[str]) -> list[Named]:
    """What `hellaswag`, `hellaswag=FILE`, `lambada`, `lambada=FILE` and `lm_eval:TASK` stand for.

    Raises: UserError for a name that does not exist, and for one asked for twice, since rows of a table are told apart by it.
    """
    chosen = [_named(name.strip()) for name in asked]
    names = [named.name for named in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"benchmarks name '{name}' {names.count(name)} times: expected once; run them one after the other.")
    return chosen


def _named(asked: str) -> Named:
    if asked.startswith(HARNESS) and asked != HARNESS:
        return Named(asked, None)
    name, _, file = asked.partition("=")
    if name not in READERS:
        raise unknown("benchmark", name, BENCHMARKS)
    return Named(name, Path(file).expanduser() if file else HERE / f"{name}_own.jsonl")


def read_benchmark(name: str, file: Path, limit: int = 0) -> Benchmark:
    """Items of a JSONL file, in its order; empty lines are passed over.

    Args:
        name: hellaswag: fields ctx_a and ctx_b (or ctx), activity_label, endings (4), label, as published.
            lambada: field text; its last word is foretold.
        file: to be read.
        limit: the first so many items; 0: all.

    Raises: UserError for a file that cannot be read, holds no item, or has a line that is not one: none is left out.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(f"Benchmark file '{file}' ({name}) cannot be read: {error.strerror}.") from error
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"Benchmark file '{file}' ({name}) is empty: expected an item a line, as JSON.")
    items, broken = [], []
    for number, line in lines:
        try:
            items.append(READERS[name](json.loads(line)))
        except (ValueError, TypeError) as error:  # JSON that cannot be decoded is a ValueError too
            broken.append((number, " ".join(str(error).split())))
    if broken:
        number, reason = broken[0]
        count = f"{len(broken)} of {len(lines)} lines {'is' if len(broken) == 1 else 'are'} broken"
        raise UserError(f"Benchmark file '{file}' ({name}): {count}, line {number} first: {reason}.")
    return Benchmark(name, tuple(items[: limit or None]), hashlib.sha256(raw).hexdigest())


def clean(text: str) -> str:
    """WikiHow's marks out of a text, as lm-evaluation-harness takes them out for HellaSwag.

    "[title]" ends a sentence, anything else in brackets goes, and so does a second space (once: three become two).
    """
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _hellaswag(entry: Any) -> Item:
    label, endings = _field(entry, "label"), _field(entry, "endings")
    if not isinstance(endings, list) or len(endings) != 4:
        raise ValueError(f"endings: expected a list of 4, not {_shown(endings)}")
    if isinstance(label, bool) or str(label) not in {"0", "1", "2", "3"}:
        raise ValueError(f"label: expected 0, 1, 2 or 3, not {_shown(label)}")
    choices = tuple(clean(_words(ending, "endings")) for ending in endings)
    if not all(choices):
        raise ValueError("endings: one is empty")
    if "ctx_a" in entry or "ctx_b" in entry:
        second = _field(entry, "ctx_b")
        if not isinstance(second, str):
            raise ValueError(f"ctx_b: expected text, not {_shown(second)}")
        context = _words(_field(entry, "ctx_a"), "ctx_a") + " " + second.capitalize()
    else:
        context = _words(_field(entry, "ctx"), "ctx")
    return Item(clean(_words(_field(entry, "activity_label"), "activity_label") + ": " + context), choices, int(label))


def _lambada(entry: Any) -> Item:
    text = _words(_field(entry, "text"), "text")
    context, _, word = text.rpartition(" ")
    if not context.strip() or not word.strip():
        raise ValueError(f"text: expected a word after a space after others, not {_shown(text[-40:])}")
    return Item(context, (word,), 0)


def _field(entry: Any, name: str) -> Any:
    if not isinstance(entry, dict):
        raise TypeError(f"expected an object with fields, not {_shown(entry)}")
    if name not in entry:
        raise ValueError(f"no field '{name}'; there are: {', '.join(entry) or 'none'}")
    return entry[name]


def _words(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: expected text, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]


READERS: dict[str, Callable[[Any], Item]] = {"hellaswag": _hellaswag, "lambada": _lambada}
