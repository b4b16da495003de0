"""What tells one group of runs from another, by the same names whether a run is done, failed or never started."""

import shlex
from collections.abc import Mapping
from typing import Any

Fact = str | int | float | bool | None


def conditions(config: Mapping[str, Any]) -> dict[str, Fact]:
    """Every setting of a resolved config that may differ between the groups of a design.

    Settings of the module keep their names (`stimulus`, `lr`, `null_space.products`), those of the attack that came before have
    `attack.` in front, and `seed`, `steps` and `gradient_clip` stand for the keys of the command line.
    """
    model, trainer = config.get("model") or {}, config.get("trainer") or {}
    found: dict[str, Fact] = {key: config.get(key) for key in ("experiment", "subject", "precision", "adapter")}
    found |= {"seed": config.get("seed_everything"), "steps": trainer.get("max_steps")}
    found["gradient_clip"] = trainer.get("gradient_clip_val") or 0.0
    found |= _attack(str(config.get("attacked_by") or ""))
    return found | _flat(model.get("init_args") or {}, "") | _flat(config.get("text") or {}, "text.")


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
    options = iter([part for word in words for part in word.split("=", 1)])
    changed: dict[str, Fact] = {f"attack.{name.removeprefix('--').removeprefix('model.')}": next(options) for name in options}
    return {"attack": config, **changed}
