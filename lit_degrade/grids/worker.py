"""The heavy side of a sweep: a process in which everything is imported already, and that runs one command line."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError
from lit_degrade.exits import exit_code
from lit_degrade.grids.logs import open_log
from lit_degrade.records.conditions import Fact, conditions


@dataclass(frozen=True)
class Resolved:
    """What a command line would write, or why it cannot run."""

    run_id: str = ""
    folder: str = ""
    error: str = ""
    conditions: dict[str, Fact] = field(default_factory=dict)
    """what tells it from the other runs"""
    ancestors: list[str] = field(default_factory=list)
    """folders of the records of what was done to its subject before"""
    files: dict[str, str] | None = None
    """SHA-256 of every file that this follows from, by its path; None where it follows from what a W&B server has too"""


def resolve_all(command_lines: Sequence[list[str]], answers: Connection) -> None:
    """Send a Resolved for each command line."""
    from lit_degrade.run import ARTIFACT, resolve

    for args in command_lines:
        try:
            record = resolve(args)
            ancestors = list(map(str, record.ancestors))
            files = None if record.config["subject"].startswith(ARTIFACT) else record.files
            answers.send(Resolved(record.run_id, str(record.folder), "", conditions(record.config), ancestors, files))
        except UserError as error:
            answers.send(Resolved(error=str(error)))


def execute(args: list[str], log: Path) -> None:
    """Run a command line in this process, its output going to a file; ends with its exit code.

    A terminal's Ctrl-C is the sweep's, which ends its runs: a second signal could end a run while it cleans up after the first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = open_log(log)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    from lit_degrade.run import run

    sys.exit(exit_code(lambda: run(args)))


def _end_with_parent() -> None:
    """A run whose sweep was killed ends as if it were asked to, and leaves a record that says interrupted."""
    parent: Any = parent_process()
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
