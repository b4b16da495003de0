"""Runs as an array of SLURM jobs."""

import io
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError
from lit_degrade.exits import exit_code
from lit_degrade.grids.local import Event

POLL_S = 2.0
MINUTES = 24 * 60
"""Time limit of a job unless `--slurm time=MINUTES` says otherwise."""


def check() -> None:
    """Raise: UserError where there is no SLURM."""
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm: 'sbatch' is not on the PATH. Use --launcher local, or run this on a login node.")


def run_in_job(args: list[str], log: Path) -> int:
    """One command line in a job of its own; returns its exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]  # Lightning would take the job for one task of a distributed run, and over its signals
    from lit_degrade.run import run

    with log.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            return exit_code(lambda: run(args))
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def launch(
    command_lines: Sequence[list[str]], logs: Sequence[Path], workers: int, folder: Path, settings: Mapping[str, Any]
) -> Iterator[Event | None]:
    """Submit every command line, `workers` at a time; yields when one starts or ends, and None now and then.

    Args:
        command_lines: what comes after `python -m lit_degrade`.
        logs: one file each.
        workers: jobs that run at the same time.
        folder: for submitit's own files.
        settings: further `sbatch` settings, such as partition or time.

    Raises: UserError when SLURM refuses the settings.
    """
    import submitit

    executor = submitit.SlurmExecutor(folder=folder / "%A")
    try:
        executor.update_parameters(**{"array_parallelism": workers, "job_name": "lit_degrade", "time": MINUTES, **settings})
        with redirect_stderr(io.StringIO()), executor.batch():  # what sbatch says is in the error too
            jobs = [executor.submit(run_in_job, args, log) for args, log in zip(command_lines, logs, strict=True)]
    except (submitit.core.utils.FailedJobError, ValueError, TypeError) as error:
        raise UserError(f"--launcher slurm: {' '.join(str(error).split())}") from error
    waiting = dict(enumerate(jobs))
    started: set[int] = set()
    while waiting:
        time.sleep(POLL_S)
        for number, job in list(waiting.items()):
            ended = job.done(force_check=number == next(iter(waiting)))  # asks SLURM once a round, for jobs that die mute
            if number not in started and (ended or job.state == "RUNNING"):
                started.add(number)
                yield number, None
            if ended:
                del waiting[number]
                yield number, _exit_code(job)
        yield None


def _exit_code(job: Any) -> int:
    """What the command line returned; 1 for a job that was killed or raised."""
    return int(job.result()) if job.paths.result_pickle.exists() and job.exception() is None else 1
