"""Names of tasks and their prompts; imports nothing heavy. "_it": prompts in English for instruction-tuned models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_degrade.errors import unknown
from lit_degrade.inputs import read_yaml
from lit_degrade.tasks.answers import Answer

TASKS: dict[str, str] = {
    "dreams_it": "38 requests to narrate a dream",
    "iq_it": "65 questions of maths, language and logic, with answer keys",
    "cookie_theft_it": "20 questions about one picture, a kitchen in which several things go wrong",
}
HERE = Path(__file__).parent
PICTURE = HERE / "cookie_theft.png"
"""What cookie_theft_it is about: 640 x 480 pixels, drawn by docs/draw_cookie_theft.py."""


@dataclass(frozen=True)
class Prompt:
    """One thing that a subject is asked."""

    id: int
    """place in its task, from 1"""
    text: str
    """what the subject reads"""
    group: str
    """`maths`, `language` or `logic` in iq_it; `dream` and `picture` in the other tasks"""
    answer: Answer | None
    """what is right; None where nothing is"""


@dataclass(frozen=True)
class Task:
    """Prompts that are asked together."""

    name: str
    """one of TASKS"""
    says: str
    """what it is, in one line"""
    prompts: tuple[Prompt, ...]
    """in the order of their ids"""
    image: bool
    """whether each prompt is about PICTURE, which the subject must see with it"""


def load_task(name: str) -> Task:
    """The task of this name: one of TASKS.

    Raises: UserError when there is no such task, with the names that there are.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    groups: dict[str, list[dict[str, Any]]] = read_yaml(HERE / f"{name}.yaml", "Prompts of a task")
    entries = [(group, entry) for group, members in groups.items() for entry in members]
    prompts = tuple(_prompt(i, group, entry) for i, (group, entry) in enumerate(entries, start=1))
    return Task(name=name, says=TASKS[name], prompts=prompts, image=name == "cookie_theft_it")


def _prompt(number: int, group: str, entry: Mapping[str, Any]) -> Prompt:
    answer = entry.get("answer")
    return Prompt(id=number, text=entry["text"].strip(), group=group, answer=_answer(answer) if answer else None)


def _answer(entry: Mapping[str, Any]) -> Answer:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Answer(**fields)
