"""The `sweep` verb: every run of a sweep file, once."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_degrade.errors import UserError
from lit_degrade.grids import local, slurm
from lit_degrade.grids.board import Board
from lit_degrade.grids.sweep_file import Point, SweepFile, command_line, load_sweep, own_arguments, points
from lit_degrade.inputs import VerbParser
from lit_degrade.records import paths
from lit_degrade.records.conditions import Fact
from lit_degrade.records.plan import write_plan
from lit_degrade.records.reading import defect_of, read_record, state_of

LAUNCHERS = ("local", "slurm")
REPORTS = "reports"
"""Folder below the results that pages about single sweeps are in."""
UNFINISHED = (None, "interrupted", "broken")
"""States of runs that have nothing to show yet."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    name: str
    """its id, and the values that it does not share with all others"""
    args: list[str]
    run_id: str
    folder: Path
    state: str | None
    conditions: dict[str, Fact]
    ancestors: tuple[str, ...]
    """folders of the records of what was done to its subject before"""


def sweep(args: Sequence[str]) -> int:
    """Run a sweep file; returns the exit code: 0 when every run has a record that is done or diverged, else 1.

    Raises: UserError for anything in the file or the options that cannot work, before anything starts.
    """
    options = _parser().parse_args(args)
    options.slurm = _settings(options.slurm)
    if options.workers < 1 or options.max_runs < 1:
        raise UserError(f"--workers and --max-runs must be at least 1, not {options.workers} and {options.max_runs}.")
    found = load_sweep(Path(options.file))
    if found.project:
        os.environ.setdefault("WANDB_PROJECT", found.project)
    if options.launcher == "slurm":
        slurm.check()
    else:
        local.prepare_server((os.cpu_count() or 1) // options.workers)
    runs = plan(found, options)
    if options.dry_run:
        for run in runs:
            print(f"{run.state or 'to run':<12}{run.run_id}  python -m lit_degrade {shlex.join(run.args)}")
        return 0
    for run in runs:
        if run.state == "broken":
            print(f"The record in {run.folder} cannot be read ({defect_of(run.folder)}) and is made again.", file=sys.stderr)
    wanted = [run for run in runs if run.state in UNFINISHED or (options.retry and run.state in ("failed", "diverged"))]
    folder = _folder(Path(options.results or "results"), found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder, str(found.path), {run.run_id: (run.folder, run.conditions) for run in runs})
    except OSError as error:
        raise UserError(
            f"Results folder '{folder}' cannot be written: {error.strerror}. Choose another with --results."
        ) from error
    try:
        _run(found, folder, wanted, len(runs) - len(wanted), options)
    except KeyboardInterrupt:
        jobs = " Jobs that were submitted go on." if options.launcher == "slurm" else ""
        print(f"Interrupted; the same command goes on from here.{jobs}", file=sys.stderr)
        return 130
    code = _conclude(runs, folder)
    return _report(runs, folder.parents[1] / REPORTS / found.name, code) if options.report else code


def plan(found: SweepFile, options: argparse.Namespace) -> list[Planned]:
    """Every distinct run of a sweep file, with the state of its record.

    Raises: UserError when a point is not a command line that can run.
    """
    results = Path(options.results or "results")
    chosen = points(found, options.max_runs)
    extra = [f"--results={options.results}"] if options.results else []
    lines = [own_arguments(found, command_line(found, point, _folder(results, found))) + extra for point in chosen]
    varied = [key for key in chosen[0] if any(point[key] != chosen[0][key] for point in chosen)]
    runs: dict[str, Planned] = {}
    for point, args, resolved in zip(chosen, lines, local.resolve(lines), strict=True):
        if resolved.error:
            raise UserError(f"{found.path}: {_words(point, point)}: {resolved.error}")
        name = f"{resolved.run_id} {_words(point, varied)}"
        run = Planned(
            name, args, resolved.run_id, Path(resolved.folder), resolved.state, resolved.conditions, resolved.ancestors
        )
        runs.setdefault(run.run_id, run)
    return list(runs.values())


def _words(point: Point, keys: Iterable[str]) -> str:
    return " ".join(f"{key}={point[key]}" for key in keys)


def _run(found: SweepFile, folder: Path, wanted: list[Planned], skipped: int, options: argparse.Namespace) -> None:
    lines = [[*run.args, "--repeat=true"] if run.state in ("failed", "diverged") else run.args for run in wanted]
    logs = [folder / f"{run.run_id}.log" for run in wanted]
    if not wanted:
        events: Any = ()
    elif options.launcher == "slurm":
        events = slurm.launch(lines, logs, options.workers, folder / "slurm", options.slurm)
    else:
        events = local.launch(lines, logs, options.workers)
    with Board(found.name, [run.name for run in wanted], skipped, options.workers) as board:
        for event in events:
            if event is None:
                board.show()
            elif event[1] is None:
                board.start(event[0])
            else:
                board.end(event[0], _state(wanted[event[0]]) or f"exit code {event[1]}")


def _conclude(runs: list[Planned], logs: Path) -> int:
    """List what did not end well."""
    states = [(run, _state(run)) for run in runs]
    for run, state in states:
        if state != "done":
            print(f"{state or 'no record'}: {run.name}: {_why(run, logs)}", file=sys.stderr)
    if any(state in ("failed", "diverged") for _, state in states):
        print("Failed and diverged runs are run again with --retry.", file=sys.stderr)
    return 0 if all(state in ("done", "diverged") for _, state in states) else 1


def _report(runs: list[Planned], output: Path, code: int) -> int:
    """One page about these runs and what came before them; none while any of them has no record."""
    from lit_degrade.evidence.report import report

    if any(_state(run) is None for run in runs):
        print("No report is made while runs have no record.", file=sys.stderr)
        return code
    folders = [*(folder for run in runs for folder in run.ancestors), *(str(run.folder) for run in runs)]
    return report([*dict.fromkeys(folders), "--html", "--output", str(output)]) or code


def _state(run: Planned) -> str | None:
    return state_of(run.folder)


def _why(run: Planned, logs: Path) -> str:
    """What the record says, or the last line of the output where there is no record."""
    log = logs / f"{run.run_id}.log"
    said = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    found = read_record(run.folder)[0]["detail"] if _state(run) not in (None, "broken") else defect_of(run.folder)
    return found or (said[-1] if said else "killed, or never started")


def _folder(results: Path, found: SweepFile) -> Path:
    """Where the outputs of a sweep's runs go."""
    return results.expanduser() / paths.SWEEPS / found.name


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as sbatch settings."""
    settings: dict[str, Any] = {}
    for word in given:
        key, separator, value = word.partition("=")
        if not separator:
            raise UserError(f"--slurm {word}: expected KEY=VALUE, for example partition=gpu or time=60.")
        settings[key.replace("-", "_")] = yaml.safe_load(value)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser(
        "sweep", "Run a W&B sweep file without a W&B server: the command lines that `wandb agent` would run, each once."
    )
    parser.add_argument("file", metavar="FILE", help="W&B sweep file (method grid or random)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at the same time (default 1)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local", help="here, or as an array of SLURM jobs")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="sbatch setting, repeatable")
    parser.add_argument("--results", metavar="DIR", help="added to every command line (default: what the runs say)")
    parser.add_argument("--max-runs", type=int, default=1000, metavar="N", help="refuse larger sweeps (default 1000)")
    parser.add_argument("--retry", action="store_true", help="run failed and diverged runs again")
    parser.add_argument("--report", action="store_true", help="then make one page about these runs: reports/NAME/report.html")
    parser.add_argument("--dry-run", action="store_true", help="print the command lines and the state of their records")
    return parser
