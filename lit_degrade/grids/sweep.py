"""The `sweep` verb: every run of a sweep file, once."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lit_degrade.errors import UserError
from lit_degrade.exits import DIVERGED
from lit_degrade.grids import local, slurm
from lit_degrade.grids.board import Board
from lit_degrade.grids.logs import last_words
from lit_degrade.grids.resolved import Lines, keep, recall
from lit_degrade.grids.sweep_file import Point, SweepFile, command_line, load_sweep, own_arguments, points
from lit_degrade.inputs import VerbParser
from lit_degrade.records import paths
from lit_degrade.records.conditions import ExitState, Fact
from lit_degrade.records.lock import Lock
from lit_degrade.records.mode import of_no_run
from lit_degrade.records.plan import plan_folder, write_plan
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
    conditions: dict[str, Fact]
    ancestors: list[str]
    """folders of the records of what was done to its subject before"""
    stamp: int | None
    """what tells the record that was there when this was planned from a later one"""
    state: str | None
    """of that record"""


def sweep(args: Sequence[str]) -> int:
    """Run a sweep file; returns the exit code: 0 when every run has a record that is done or diverged, else 1.

    Raises: UserError for anything in the file or the options that cannot work, before anything starts.
    """
    options = _parser().parse_args(args)
    if options.slurm and options.launcher != "slurm":
        raise UserError(f"--slurm {options.slurm[0]}: only --launcher slurm takes settings of sbatch.")
    options.slurm = _settings(options.slurm)
    if options.workers < 1 or options.max_runs < 1:
        raise UserError(f"--workers and --max-runs must be at least 1, not {options.workers} and {options.max_runs}.")
    sweep_file = load_sweep(Path(options.file))
    for line in sweep_file.doubts:
        print(f"lit_degrade: {line}", file=sys.stderr)
    if sweep_file.project:
        os.environ.setdefault("WANDB_PROJECT", sweep_file.project)
    if options.launcher == "slurm":
        slurm.check()
    else:
        local.prepare_server((os.cpu_count() or 1) // options.workers, for_runs=not options.dry_run)
    with of_no_run():
        return _sweep(sweep_file, options)


def _sweep(sweep_file: SweepFile, options: argparse.Namespace) -> int:
    results = Path(options.results or "results").expanduser()
    lines, runs = plan(sweep_file, options, results)
    if options.dry_run:
        for run in runs:
            print(f"{run.state or 'to run':<12}{run.run_id}  python -m lit_degrade {shlex.join(run.args)}")
        return 0
    for run in runs:
        if run.state == "broken":
            print(f"The record in {run.folder} cannot be read ({defect_of(run.folder)}) and is made again.", file=sys.stderr)
    wanted = [run for run in runs if run.state in UNFINISHED or (options.retry and run.state in ("failed", "diverged"))]
    folder = _keep_plan(sweep_file, results, lines, runs)
    ended: dict[str, str | None] = {}
    try:
        _run(sweep_file, folder, wanted, len(runs) - len(wanted), options, ended)
    except KeyboardInterrupt:
        jobs = " Jobs that were submitted go on." if options.launcher == "slurm" else ""
        print(f"Interrupted; the same command goes on from here.{jobs}", file=sys.stderr)
        return 130
    code = _conclude(runs, folder, ended)
    return _report(runs, results / REPORTS / folder.name, code) if options.report else code


def plan(found: SweepFile, options: argparse.Namespace, results: Path) -> tuple[Lines, list[Planned]]:
    """What each command line of a sweep file resolves to, and every distinct run of them with the state of its record.

    Raises: UserError when a point is not a command line that can run.
    """
    folder = plan_folder(results, str(found.path))
    chosen = points(found, options.max_runs)
    extra = [f"--results={options.results}"] if options.results else []
    args = [own_arguments(found, command_line(found, point, folder)) + extra for point in chosen]
    lines = recall(folder / paths.RESOLVED, args)
    new = [words for words in args if tuple(words) not in lines]
    if new:
        lines |= zip(map(tuple, new), local.resolve(new), strict=True)
    varied = [key for key in chosen[0] if any(point[key] != chosen[0][key] for point in chosen)]
    runs: dict[str, Planned] = {}
    for point, words in zip(chosen, args, strict=True):
        resolved = lines[tuple(words)]
        if resolved.error:
            raise UserError(f"{found.path}: {_words(point, point)}: {resolved.error}")
        if resolved.run_id not in runs:
            name, record = f"{resolved.run_id} {_words(point, varied)}", Path(resolved.folder)
            what = (name, words, resolved.run_id, record, resolved.conditions, resolved.ancestors)
            runs[resolved.run_id] = Planned(*what, _stamp(record), state_of(record))
    return lines, list(runs.values())


def _words(point: Point, keys: Iterable[str]) -> str:
    return " ".join(" ".join(f"{key}={point[key]}".split()) for key in keys)


def _keep_plan(sweep_file: SweepFile, results: Path, lines: Lines, runs: list[Planned]) -> Path:
    """Write down what is asked for; returns the folder for it and for the outputs of the runs."""
    lock = Lock(results / paths.SWEEPS / ".lock", f"the plan of sweep {sweep_file.name}")
    try:
        lock.take()
        folder = plan_folder(results, str(sweep_file.path))
        folder.mkdir(exist_ok=True)
        write_plan(folder, str(sweep_file.path), {run.run_id: (run.folder, run.conditions) for run in runs})
        keep(folder / paths.RESOLVED, lines)
    except OSError as error:
        raise UserError(
            f"Results folder '{results}' cannot be written: {error.strerror}. Choose another with --results."
        ) from error
    finally:
        lock.release()
    return folder


def _run(
    sweep_file: SweepFile,
    folder: Path,
    wanted: list[Planned],
    skipped: int,
    options: argparse.Namespace,
    ended: dict[str, str | None],
) -> None:
    """Run what is wanted; `ended` gets the states of runs that come to an end."""
    lines = [[*run.args, "--repeat=true"] if run.state in ("failed", "diverged") else run.args for run in wanted]
    logs = [_log(folder, run) for run in wanted]
    if not wanted:
        events: Any = ()
    elif options.launcher == "slurm":
        events = slurm.launch(lines, logs, options.workers, folder / "slurm", options.slurm)
    else:
        events = local.launch(lines, logs, options.workers)
    with Board(sweep_file.name, [run.name for run in wanted], skipped, options.workers) as board:
        for event in events:
            if event is None:
                board.show()
            elif event[1] is None:
                board.start(event[0])
            else:
                run = wanted[event[0]]
                ended[run.run_id] = _outcome(run, event[1])
                board.end(event[0], ended[run.run_id] or f"exit code {event[1]}")


def _outcome(run: Planned, code: int) -> str | None:
    """State of a run that has ended: of the record that it left, if its exit code agrees; None without any record."""
    state = state_of(run.folder)
    if state is None:
        return None
    agrees = {"done": code == 0, "diverged": code == DIVERGED}.get(state, code not in (0, DIVERGED))
    return state if agrees and _stamp(run.folder) != run.stamp else f"exit code {code}"


def _conclude(runs: list[Planned], folder: Path, ended: Mapping[str, str | None]) -> int:
    """List what did not end well."""
    states = [(run, ended.get(run.run_id, run.state)) for run in runs]
    for run, state in states:
        if state != "done":
            print(f"{state or 'no record'}: {run.name}: {_why(run, state, folder)}", file=sys.stderr)
    if any(state in ("failed", "diverged") for _, state in states):
        print("Failed and diverged runs are run again with --retry.", file=sys.stderr)
    return 0 if all(state in ("done", "diverged") for _, state in states) else 1


def _report(runs: list[Planned], output: Path, code: int) -> int:
    """One page about these runs and what came before them; none while any of them has no record."""
    from lit_degrade.evidence.pages.report import report

    if any(state_of(run.folder) is None for run in runs):
        print("No report is made while runs have no record.", file=sys.stderr)
        return code
    folders = [*(folder for run in runs for folder in run.ancestors), *(str(run.folder) for run in runs)]
    return report([*dict.fromkeys(folders), "--html", "--output", str(output)]) or code


def _stamp(record: Path) -> int | None:
    """When a record was made; None where there is none."""
    manifest = record / paths.MANIFEST
    return manifest.stat().st_mtime_ns if manifest.is_file() else None


def _why(run: Planned, state: str | None, folder: Path) -> str:
    """What the record of this outcome says, or else the last line of the output."""
    said = defect_of(run.folder) if state == "broken" else ""
    if state in get_args(ExitState):
        said = read_record(run.folder)[0]["detail"]
    return said or last_words(_log(folder, run)) or "killed, or never started"


def _log(folder: Path, run: Planned) -> Path:
    return folder / f"{run.run_id}.log"


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as sbatch settings: whole numbers and truths as such, anything else as the text that it is to SLURM."""
    settings: dict[str, Any] = {}
    for word in given:
        key, separator, value = word.partition("=")
        if not separator:
            raise UserError(f"--slurm {word}: expected KEY=VALUE, for example partition=gpu or time=60.")
        whole = re.fullmatch(r"\d+", value)
        settings[key.replace("-", "_")] = int(value) if whole else {"true": True, "false": False}.get(value, value)
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
