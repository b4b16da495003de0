"""What tells one group of runs from another, by the same names whether a run is done, failed or never started."""

import shlex
from collections.abc import Mapping
from typing import Any, Literal

Fact = str | int | float | bool | None
ExitState = Literal["done", "diverged", "failed", "interrupted"]
PLACES = {
    "experiment": "experiment", "subject": "subject", "precision": "precision", "adapter": "adapter", "seed": "seed_everything",
    "steps": "trainer.max_steps", "gradient_clip": "trainer.gradient_clip_val",
}  # fmt: skip
"""Conditions -> their keys in a config, dots between nested keys; those of the module and the text keep their names."""


def conditions(config: Mapping[str, Any]) -> dict[str, Fact]:
    """Every setting of a resolved config that may differ between the groups of a design.

    Settings of the module keep their names (`stimulus`, `lr`, `null_space.products`), those of the attack that came before have
    `attack.` in front, and `seed`, `steps` and `gradient_clip` stand for the keys of the command line.

    Raises: ValueError for what is not a resolved config.
    """
    model, trainer, text = (_part(config, name) for name in ("model", "trainer", "text"))
    flat = {**config, **{f"trainer.{key}": value for key, value in trainer.items()}}
    facts: dict[str, Fact] = {name: flat.get(key) for name, key in PLACES.items()}
    facts["gradient_clip"] = facts["gradient_clip"] or 0.0
    facts |= _attack(str(config.get("attacked_by") or ""))
    for key, value in facts.items():
        if not isinstance(value, Fact):
            raise ValueError(f"{key} is {value!r}")
    return facts | _flat(_part(model, "init_args"), "") | _flat(text, "text.")


def config_key(condition: str) -> str:
    """Where a condition is in a config. What an attack was made with is one command line there, so all of it has one key."""
    if condition == "attack" or condition.startswith("attack."):
        return "attacked_by"
    return condition if condition.startswith("text.") else PLACES.get(condition, f"model.init_args.{condition}")


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name) or {}
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} has no settings, but is {part!r}")
    return part


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Fact]:
    flat: dict[str, Fact] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Fact):
            flat[f"{prefix}{key}"] = value
    return flat


def _attack(attacked_by: str) -> dict[str, Fact]:
    """The config of the attack, and what its command line changes in it."""
    if not attacked_by:
        return {"attack": None}
    config, *words = shlex.split(attacked_by)
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    changed = zip(parts[::2], parts[1::2], strict=False)
    return {"attack": config, **{f"attack.{name.removeprefix('--').removeprefix('model.')}": value for name, value in changed}}
