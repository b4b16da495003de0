"""What tells one group of runs from another, by the same names whether a run is done, failed or never started."""

import shlex
from collections.abc import Mapping
from typing import Any

Fact = str | int | float | bool | None


def conditions(config: Mapping[str, Any]) -> dict[str, Fact]:
    """Every setting of a resolved config that may differ between the groups of a design.

    Settings of the module keep their names (`stimulus`, `lr`, `null_space.products`), those of the attack that came before have
    `attack.` in front, and `seed`, `steps` and `gradient_clip` stand for the keys of the command line.

    Raises: ValueError for what is not a resolved config.
    """
    model, trainer, text = (_part(config, name) for name in ("model", "trainer", "text"))
    found: dict[str, Fact] = {key: config.get(key) for key in ("experiment", "subject", "precision", "adapter")}
    found |= {"seed": config.get("seed_everything"), "steps": trainer.get("max_steps")}
    found["gradient_clip"] = trainer.get("gradient_clip_val") or 0.0
    found |= _attack(str(config.get("attacked_by") or ""))
    for key, value in found.items():
        if not isinstance(value, Fact):
            raise ValueError(f"{key} is {value!r}")
    return found | _flat(_part(model, "init_args"), "") | _flat(text, "text.")


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
