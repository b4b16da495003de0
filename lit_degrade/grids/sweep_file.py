"""W&B sweep files: their points, and the command lines that `wandb agent` would run for them."""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError, unknown
from lit_degrade.grids.entries import check_entry, check_number, check_text, count_in_grid, doubt, in_grid, kind_of, shown
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
SWEEP_METHODS = ("grid", "random")
NAME = r"[^\s=-][^\s=]*"
"""What may follow the two dashes of a command line."""
RANDOM_SEED = 42
"""Random points are the same at every start, so that an interrupted sweep goes on with its own."""


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that can be honoured."""

    path: Path
    program: str
    command: tuple[str, ...]
    method: str
    parameters: tuple[tuple[tuple[str, ...], dict[str, Any]], ...]
    """names from the top-level parameter inwards -> entry, in W&B's order"""
    run_cap: int | None
    project: str | None
    doubts: tuple[str, ...]
    """one line each about entries that were hardly meant as W&B takes them"""

    @property
    def name(self) -> str:
        """Name of the file without its extension."""
        return self.path.stem


def load_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file.

    Raises: UserError, in one line, for a file that cannot be read or asks for what is not offered here.
    """
    content = read_yaml(path, "Sweep file")
    if not isinstance(content, dict):
        raise UserError(f"Sweep file '{path}' holds no keys: expected {', '.join(KEYS)}.")
    _refuse_endless(path, content)
    for key in content:
        if key in NOT_HERE:
            raise UserError(f"{path}: '{key}' cannot be honoured: {NOT_HERE[key]}.")
        if key not in KEYS:
            raise unknown(f"key of {path}", " ".join(str(key).split()), KEYS)
    for key in ("program", "project"):
        if not isinstance(content.get(key, ""), str | None):
            raise UserError(f"{path}: '{key}' must be text, not {shown(content[key])}.")
        check_text(f"{path}: {key}", content.get(key) or "")
    method = content.get("method", "")
    if method == "bayes":
        raise UserError(f"{path}: method 'bayes' needs the results of earlier runs. Available: {', '.join(SWEEP_METHODS)}.")
    if method not in SWEEP_METHODS:
        raise unknown(f"method of {path}", " ".join(str(method).split()), SWEEP_METHODS)
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{path}: the grid is empty: expected at least one entry under 'parameters'.")
    flat = tuple(_flat(path, parameters))
    for names, entry in flat:
        check_entry(_where(path, names), method, entry)
    doubts = tuple(line for names, entry in flat if (line := doubt(_where(path, names), entry)))
    cap, command = _run_cap(path, content), _command(path, content)
    return SweepFile(path, content.get("program") or "", command, method, flat, cap, content.get("project"), doubts)


def points(sweep: SweepFile, max_runs: int) -> list[Point]:
    """Every point of a grid, in W&B's order (the last of the sorted names changes fastest), or random points.

    Raises: UserError for more points than `max_runs`, before any is made; for random points without a number of them, or with
        a value that no float holds.
    """
    if sweep.method == "grid":
        count = math.prod(count_in_grid(entry) for _, entry in sweep.parameters)
        wanted = min(count, sweep.run_cap or count)
        _refuse_too_many(sweep, wanted, max_runs)
        choices = [in_grid(entry, wanted) for _, entry in sweep.parameters]
        return [_nested(sweep, values) for values in itertools.islice(itertools.product(*choices), wanted)]
    if sweep.run_cap is None:
        raise UserError(f"{sweep.path}: method 'random' has no end: say how many runs with run_cap.")
    _refuse_too_many(sweep, sweep.run_cap, max_runs)
    draws = random.Random(RANDOM_SEED)  # noqa: S311 (the generator that W&B draws with)
    return [_nested(sweep, _drawn(sweep, draws)) for _ in range(sweep.run_cap)]


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


def _refuse_endless(path: Path, content: dict[Any, Any]) -> None:
    """Raise: UserError for a file whose anchors refer to what they are part of, or with a number too long to be written."""
    try:
        json.dumps(content, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise UserError(f"Sweep file '{path}' cannot be used: {' '.join(str(error).split())}.") from error


def _run_cap(path: Path, content: Mapping[str, Any]) -> int | None:
    cap = content.get("run_cap")
    if cap is None:
        return None
    check_number(str(path), "run_cap", cap)
    if not isinstance(cap, int) or cap < 1:
        raise UserError(f"{path}: run_cap must be a whole number above 0, not {shown(cap)}.")
    return cap


def _command(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    command = content.get("command") or ["${env}", "${interpreter}", "${program}", "${args}"]
    if not isinstance(command, list):
        raise UserError(f"{path}: 'command' must be a list, not {shown(command)}.")
    for number, word in enumerate(command, 1):
        if not isinstance(word, str | int | float):
            raise UserError(f"{path}: word {number} of 'command' is {shown(word)}: expected text; put it in quotes.")
        check_text(f"{path}: command", str(word))
    return tuple(map(str, command))


def _where(path: Path, names: tuple[str, ...]) -> str:
    return f"{path}: parameter '{'.'.join(names)}'"


def _flat(path: Path, parameters: Mapping[Any, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Names and entry of every parameter in sorted order, nested blocks in the place of their own name."""
    for name in sorted(parameters, key=str):
        entry = parameters[name]
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise UserError(
                f"{path}: the parameter name {shown(name)} is no key of a run: expected text such as model.lr, "
                "without leading dash, space or '='."
            )
        check_text(f"{path}: parameter", name)
        if isinstance(entry, dict) and set(entry) == {"parameters"} and isinstance(entry["parameters"], dict):
            if not entry["parameters"]:
                raise UserError(f"{_where(path, (*outer, name))}: the grid is empty: 'parameters' holds none.")
            yield from _flat(path, entry["parameters"], (*outer, name))
        else:
            yield (*outer, name), entry


def _nested(sweep: SweepFile, values: Iterable[Any]) -> Point:
    point: Point = {}
    for (names, _), value in zip(sweep.parameters, values, strict=True):
        here = point
        for name in names[:-1]:
            here = here.setdefault(name, {})
        here[names[-1]] = value
    return point


def _drawn(sweep: SweepFile, draws: random.Random) -> list[Any]:
    from lit_degrade.grids.distributions import draw  # SciPy takes longer to import than a grid takes altogether

    values = [draw(kind_of(entry), entry, draws.uniform(0.0, 1.0)) for _, entry in sweep.parameters]
    for (names, entry), value in zip(sweep.parameters, values, strict=True):
        if isinstance(value, float) and not math.isfinite(value) and not {"value", "values"} & set(entry):
            raise UserError(f"{_where(sweep.path, names)}: a draw from distribution '{kind_of(entry)}' is {value}.")
    return values


def _refuse_too_many(sweep: SweepFile, count: int, max_runs: int) -> None:
    if count > max_runs:
        said = count if count < 10**12 else "more than 10^12"
        raise UserError(f"{sweep.path}: {said} runs are more than --max-runs {max_runs}. Raise it, or set run_cap.")
