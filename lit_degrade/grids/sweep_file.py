"""W&B sweep files: their points, and the command lines that `wandb agent` would run for them."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError, unknown
from lit_degrade.grids.distributions import DISTRIBUTIONS, draw
from lit_degrade.inputs import read_yaml

Point = dict[str, Any]
"""One value per top-level parameter; a nested block is a dict."""
KEYS = ("program", "command", "method", "parameters", "name", "description", "project", "entity", "metric", "run_cap")
NOT_HERE = {
    "early_terminate": "runs are never stopped early, since a stopped run is a biased sample",
    "controller": "points are chosen here, not by a controller",
    "scheduler": "points are chosen here, not by a scheduler",
    "job": "launch jobs need the W&B server",
    "image_uri": "launch jobs need the W&B server",
}
METHODS = ("grid", "random")
RANDOM_SEED = 42
"""Random points are the same at every start, so that an interrupted sweep goes on with its own."""


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that can be honoured."""

    path: Path
    program: str
    command: tuple[str, ...]
    method: str
    parameters: dict[str, Any]
    run_cap: int | None
    project: str | None

    @property
    def name(self) -> str:
        """Name of the file without its extension."""
        return self.path.stem


def load_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file.

    Raises: UserError, in one line, for a file that cannot be read or asks for what is not offered here.
    """
    found = read_yaml(path, "Sweep file")
    if not isinstance(found, dict):
        raise UserError(f"Sweep file '{path}' holds no keys: expected {', '.join(KEYS)}.")
    for key in found:
        if key in NOT_HERE:
            raise UserError(f"{path}: '{key}' cannot be honoured: {NOT_HERE[key]}.")
        if key not in KEYS:
            raise unknown(f"key of {path}", str(key), KEYS)
    method = str(found.get("method", ""))
    if method == "bayes":
        raise UserError(f"{path}: method 'bayes' needs the results of earlier runs. Available: {', '.join(METHODS)}.")
    if method not in METHODS:
        raise unknown(f"method of {path}", method, METHODS)
    parameters = found.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{path}: the grid is empty: expected at least one entry under 'parameters'.")
    cap = found.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"{path}: run_cap must be a whole number above 0, not {cap}.")
    command = found.get("command") or ["${env}", "${interpreter}", "${program}", "${args}"]
    if not isinstance(command, list):
        raise UserError(f"{path}: 'command' must be a list, not {command!r}.")
    sweep = SweepFile(
        path,
        str(found.get("program", "")),
        tuple(map(str, command)),
        method,
        parameters,
        cap,
        found.get("project"),
    )
    for name, entry in _flat(parameters):
        _check(path, method, name, entry)
    return sweep


def points(sweep: SweepFile, max_runs: int) -> list[Point]:
    """Every point of a grid, in W&B's order (the last of the sorted names changes fastest), or random points.

    Raises: UserError for more points than `max_runs`, or random points without a number of them.
    """
    flat = _flat(sweep.parameters)
    if sweep.method == "grid":
        choices = [_choices(entry) for _, entry in flat]
        count = math.prod(len(values) for values in choices)
        wanted = min(count, sweep.run_cap or count)
        _refuse_too_many(sweep, wanted, max_runs)
        return [_nested(flat, values) for values in itertools.islice(itertools.product(*choices), wanted)]
    if sweep.run_cap is None:
        raise UserError(f"{sweep.path}: method 'random' has no end: say how many runs with run_cap.")
    _refuse_too_many(sweep, sweep.run_cap, max_runs)
    draws = random.Random(RANDOM_SEED)  # noqa: S311 (the generator that W&B draws with)
    return [
        _nested(flat, [draw(_kind(entry), entry, draws.uniform(0.0, 1.0)) for _, entry in flat]) for _ in range(sweep.run_cap)
    ]


def command_line(sweep: SweepFile, point: Point, json_folder: Path) -> list[str]:
    """The words that `wandb agent` would run for a point; the client's own functions expand the macros.

    Args:
        sweep: where the command comes from.
        point: one of its points.
        json_folder: where the file behind `${args_json_file}` is written, if the command has that macro.
    """
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    values = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    values |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep.program]}
    words: list[str] = []
    for chunk in create_sweep_command(list(sweep.command)):
        if not (chunk.startswith("${") and chunk.endswith("}")):
            words.append(chunk)
        elif chunk == "${args_json_file}":
            text = values["args_json"][0]
            json_folder.mkdir(parents=True, exist_ok=True)
            file = json_folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
            file.write_text(text)
            words.append(str(file))
        elif chunk[2:-1] in values:
            words += values[chunk[2:-1]]
        else:
            raise unknown(f"macro in the command of {sweep.path}", chunk, [f"${{{name}}}" for name in values])
    return words


def own_arguments(sweep: SweepFile, words: list[str]) -> list[str]:
    """What comes after `python -m lit_degrade` in a command line.

    Raises: UserError for a command that runs anything else, since its runs leave no record to be recognised by.
    """
    rest = words[1:] if words[:1] == ["/usr/bin/env"] else words
    if rest[1:3] != ["-m", "lit_degrade"] or len(rest) < 4:
        raise UserError(
            f"{sweep.path}: the command is '{' '.join(words)[:200]}', not ${{env}} ${{interpreter}} -m lit_degrade VERB ..."
        )
    return rest[3:]


def _flat(parameters: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(path, entry) of every parameter in sorted order, nested blocks in the place of their own name."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name in sorted(parameters, key=str):
        entry = parameters[name]
        if isinstance(entry, dict) and set(entry) == {"parameters"} and isinstance(entry["parameters"], dict):
            found += _flat(entry["parameters"], (*prefix, str(name)))
        else:
            found.append(((*prefix, str(name)), entry))
    return found


def _nested(flat: list[tuple[tuple[str, ...], Any]], values: Any) -> Point:
    point: Point = {}
    for (path, _), value in zip(flat, values, strict=True):
        here = point
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = value
    return point


def _check(path: Path, method: str, name: tuple[str, ...], entry: Any) -> None:
    where = f"{path}: parameter '{'.'.join(name)}'"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must have value, values, or a distribution, not {entry!r}.")
    kind = _kind(entry)
    if kind not in DISTRIBUTIONS:
        raise unknown(f"distribution of {where}", kind, DISTRIBUTIONS)
    needed, optional, _ = DISTRIBUTIONS[kind]
    for key in entry:
        if key not in (*needed, *optional, "distribution"):
            raise unknown(f"key of {where}", str(key), (*needed, *optional, "distribution"))
    for key in needed:
        if key not in entry:
            raise UserError(f"{where} with distribution '{kind}' needs '{key}'.")
    bounds = [entry[key] for key in ("min", "max") if key in needed]
    if bounds and not (all(isinstance(bound, int | float) for bound in bounds) and bounds[0] < bounds[1]):
        raise UserError(f"{where}: min must be a number below max, not {bounds[0]} and {bounds[1]}.")
    if "values" in entry and (not isinstance(entry["values"], list) or not entry["values"]):
        raise UserError(f"{where}: the grid is empty: 'values' must be a list with at least one value.")
    if "probabilities" in entry and len(entry["probabilities"]) != len(entry["values"]):
        raise UserError(f"{where}: {len(entry['values'])} values need as many probabilities.")
    if method == "grid" and kind not in ("constant", "categorical", "int_uniform", "q_uniform"):
        raise UserError(f"{where}: a grid needs 'values' (or int_uniform, q_uniform), not distribution '{kind}'.")


def _kind(entry: Mapping[str, Any]) -> str:
    """Name of the distribution, by W&B's rules where it is not given."""
    if "distribution" in entry:
        return str(entry["distribution"])
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    whole = all(isinstance(entry.get(key), int) for key in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _choices(entry: Mapping[str, Any]) -> list[Any]:
    """Values of one parameter of a grid; of equal ones, as 1 and 1.0, the last."""
    kind = _kind(entry)
    if kind == "constant":
        return [entry["value"]]
    if kind == "int_uniform":
        return list(range(entry["min"], entry["max"] + 1))
    if kind == "q_uniform":
        import numpy as np

        return np.arange(entry["min"], entry["max"], entry.get("q", 1.0)).tolist()
    return list({_same(value): value for value in entry["values"]}.values())


def _same(value: Any) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True, default=str)


def _refuse_too_many(sweep: SweepFile, count: int, max_runs: int) -> None:
    if count > max_runs:
        raise UserError(f"{sweep.path}: {count} runs are more than --max-runs {max_runs}. Raise it, or set run_cap.")
