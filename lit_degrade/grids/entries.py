"""One parameter of a W&B sweep file: what its entry may hold, and the values that a grid takes from it."""

import datetime
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from lit_degrade.errors import UserError, unknown

RANGE = ("min", "max")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (RANGE, ()),
    "uniform": (RANGE, ()),
    "q_uniform": (RANGE, ("q",)),
    "log_uniform": (RANGE, ()),
    "log_uniform_values": (RANGE, ()),
    "q_log_uniform": (RANGE, ("q",)),
    "q_log_uniform_values": (RANGE, ("q",)),
    "inv_log_uniform": (RANGE, ()),
    "inv_log_uniform_values": (RANGE, ()),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
"""Distribution -> keys that it needs, keys that it may have."""
IN_GRIDS = ("constant", "categorical", "int_uniform", "q_uniform")
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
"""Distributions whose bounds are exponents of e, by W&B's definition."""
ABOVE_0 = ("q", "sigma", "a", "b")
LARGEST_INT = 2**53
"""Whole numbers beyond this are not drawn exactly, as they are drawn as floats."""
LARGEST_EXPONENT = 40
"""Nobody asks for e to the power of this; whoever gives a higher bound means the value itself."""


def kind_of(entry: Mapping[str, Any]) -> str:
    """Name of the distribution, by W&B's rules where it is not given."""
    if "distribution" in entry:
        return str(entry["distribution"])
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    whole = all(isinstance(entry.get(key), int) for key in RANGE)
    return "int_uniform" if whole else "uniform"


def check_entry(where: str, method: str, entry: Any) -> None:
    """Check the entry of a parameter.

    Args:
        where: what messages begin with: the file and the parameter.
        method: "grid" or "random".
        entry: what the file holds.

    Raises: UserError, in one line that names the key.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{where} must have value, values, or a distribution, not {shown(entry)}.")
    kind = kind_of(entry)
    _check_keys(where, kind, entry)
    if "value" in entry:
        _check_value(where, entry["value"])
    if "values" in entry:
        _check_values(where, entry)
    for key in ("min", "max", "mu", *ABOVE_0):
        if key in entry:
            check_number(where, key, entry[key])
            if key in ABOVE_0 and entry[key] <= 0:
                raise UserError(f"{where}: {key} must be above 0, not {shown(entry[key])}.")
    if "min" in entry:
        _check_bounds(where, kind, entry)
    if "log_normal" in kind:
        _check_exponent(where, kind, "mu", entry.get("mu", 0.0))
    if method == "grid" and kind not in IN_GRIDS:
        raise UserError(f"{where}: a grid needs 'values' (or int_uniform, q_uniform), not distribution '{kind}'.")


def _check_keys(where: str, kind: str, entry: Mapping[Any, Any]) -> None:
    if "parameters" in entry:
        held = entry["parameters"]
        if not isinstance(held, dict) or not held:
            raise UserError(f"{where}: 'parameters' must hold parameters by their names, not {shown(held)}.")
        others = ", ".join(shown(key) for key in entry if key != "parameters")
        raise UserError(f"{where}: 'parameters' stands alone, without {others}.")
    if "value" in entry and "values" in entry:
        raise UserError(f"{where} has both value and values: keep one of them.")
    if kind not in KINDS:
        raise unknown(f"distribution of {where}", " ".join(kind.split()), KINDS)
    needed, optional = KINDS[kind]
    for key in entry:
        if key not in (*needed, *optional, "distribution"):
            raise unknown(f"key of {where}", " ".join(str(key).split()), (*needed, *optional, "distribution"))
    for key in needed:
        if key not in entry:
            raise UserError(f"{where} with distribution '{kind}' needs '{key}'.")


def check_number(where: str, key: str, value: Any) -> None:
    """Raise: UserError for what is not a finite number; text that looks like one is shown with the spelling that YAML reads."""
    if isinstance(value, str):
        raise UserError(f"{where}: {key} {shown(value)} is text: {_spelling(value)}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {key} must be a number, not {shown(value)}.")
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise UserError(f"{where}: {key} must be a finite number, not {shown(value)}.")


def _check_bounds(where: str, kind: str, entry: Mapping[str, Any]) -> None:
    low, high = bounds = entry["min"], entry["max"]
    for key, bound in zip(RANGE, bounds, strict=True):
        wanted = ""
        if kind == "int_uniform" and not (isinstance(bound, int) and abs(bound) <= LARGEST_INT):
            wanted = "a whole number" if abs(bound) <= LARGEST_INT else "between -2^53 and 2^53"
        if kind.endswith("_values") and bound <= 0:
            wanted = "above 0"
        if wanted:
            raise UserError(f"{where}: {key} must be {wanted} with distribution '{kind}', not {shown(bound)}.")
    if low >= high:
        raise UserError(f"{where}: min must be a number below max, not {shown(low)} and {shown(high)}.")
    if not math.isfinite(float(high) - float(low)):
        raise UserError(f"{where}: min {shown(low)} and max {shown(high)} are too far apart.")
    if kind == "q_uniform" and not math.isfinite((high - low) / entry.get("q", 1.0)):
        raise UserError(f"{where}: q {shown(entry['q'])} is too small for min {shown(low)} and max {shown(high)}.")
    if kind in EXPONENTS:
        for key, bound in zip(RANGE, bounds, strict=True):
            _check_exponent(where, kind, key, -bound if kind.startswith("inv") else bound)


def _check_exponent(where: str, kind: str, key: str, exponent: float) -> None:
    try:
        fine = math.exp(exponent) > 0
    except OverflowError:
        fine = False
    if not fine:
        instead = f" For bounds that are the values themselves use {kind}_values." if kind in EXPONENTS else ""
        raise UserError(f"{where}: {key} is an exponent with distribution '{kind}', and no float holds e^{exponent}.{instead}")


def doubt(where: str, entry: Mapping[str, Any]) -> str:
    """One line about bounds that are exponents by W&B's definition and were hardly meant to be; or nothing."""
    kind = kind_of(entry)
    if kind not in EXPONENTS or not (entry["min"] > 0 and (entry["max"] < 1 or entry["max"] > LARGEST_EXPONENT)):
        return ""
    low, high = sorted(math.exp(-entry[key] if kind.startswith("inv") else entry[key]) for key in RANGE)
    return (
        f"{where}: by W&B's definition the bounds of '{kind}' are exponents, which gives values from {low:.6g} to {high:.6g}. "
        f"For values from {shown(entry['min'])} to {shown(entry['max'])} use {kind}_values."
    )


def _check_values(where: str, entry: Mapping[str, Any]) -> None:
    values = entry["values"]
    if not isinstance(values, list):
        raise UserError(f"{where}: 'values' must be a list with at least one value, not {shown(values)}.")
    if not values:
        raise UserError(f"{where}: the grid is empty: 'values' must be a list with at least one value.")
    for value in values:
        _check_value(where, value)
    if "probabilities" in entry:
        _check_probabilities(where, entry["probabilities"], len(values))


def _check_probabilities(where: str, probabilities: Any, count: int) -> None:
    if not isinstance(probabilities, list):
        raise UserError(f"{where}: 'probabilities' must be a list, not {shown(probabilities)}.")
    if len(probabilities) != count:
        raise UserError(f"{where}: {count} values need as many probabilities.")
    for probability in probabilities:
        check_number(where, "probability", probability)
        if not 0 <= probability <= 1:
            raise UserError(f"{where}: probability {shown(probability)} is not between 0 and 1.")
    if not math.isclose(sum(probabilities), 1, abs_tol=1e-6):
        raise UserError(f"{where}: the probabilities must sum to 1, not to {sum(probabilities):.6g}.")


def _check_value(where: str, value: Any) -> None:
    """Raise: UserError for a value that no command line can give to a run, or that the client cannot send."""
    if isinstance(value, list):
        for item in value:
            _check_value(where, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: the key {shown(key)} in its value is not text.")
            check_text(where, key)
            _check_value(where, item)
    elif isinstance(value, str):
        check_text(where, value)
    elif isinstance(value, datetime.date):
        raise UserError(f"{where}: the value {value} is a date to YAML: put it in quotes.")
    elif value is not None and not isinstance(value, int | float):
        raise UserError(f"{where}: the value {shown(value)} is neither text, number, true, false, null, list nor mapping.")


def check_text(where: str, text: str) -> None:
    """Raise: UserError for text that no command line can hold."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: {shown(text)} holds a character that no command line can.")


def shown(value: object) -> str:
    """A value in a message: on one line, text in quotes, the rest as YAML has it."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    said = _number(value) if isinstance(value, float) else repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def _number(value: float) -> str:
    """A number as YAML reads it: with a point and a signed exponent, without which it is text."""
    mantissa, exponential, exponent = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}" if exponential else mantissa


def _spelling(text: str) -> str:
    """What to write for a text that stands where a number is expected."""
    try:
        number = float(text)
    except ValueError:
        return "expected a number"
    if not math.isfinite(number):
        return "expected a finite number"
    whole = re.fullmatch(r"\s*([+-]?\d+)\s*", text)
    return f"write {int(whole[1]) if whole else _number(number)}"


def count_in_grid(entry: Mapping[str, Any]) -> int:
    """How many values a grid takes from an entry."""
    kind = kind_of(entry)
    if kind == "int_uniform":
        return entry["max"] - entry["min"] + 1
    if kind == "q_uniform":
        return math.ceil((entry["max"] - entry["min"]) / entry.get("q", 1.0))
    return len(_distinct(entry)) if kind == "categorical" else 1


def in_grid(entry: Mapping[str, Any], count: int) -> list[Any]:
    """The first values, at most `count`, that a grid takes from an entry, in W&B's order."""
    kind = kind_of(entry)
    if kind == "constant":
        return [entry["value"]]
    if kind == "int_uniform":
        return list(range(entry["min"], entry["max"] + 1)[:count])
    if kind == "q_uniform":
        return [_step(entry, i) for i in range(min(count, count_in_grid(entry)))]
    return _distinct(entry)[:count]


def _step(entry: Mapping[str, Any], i: int) -> float:
    """What W&B's numpy.arange has at place `i`: the first value, and i times what the second is above it in floating point."""
    first, q = entry["min"], entry.get("q", 1.0)
    value = first + i * ((first + q) - first)
    return float(value) if isinstance(entry["max"], float) else value


def _distinct(entry: Mapping[str, Any]) -> list[Any]:
    """Values of an entry; of equal ones, as 1 and 1.0, the last."""
    return list({_same(value): value for value in entry["values"]}.values())


def _same(value: Any) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)
