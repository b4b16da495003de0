"""How a command line ends: errors become exit codes in one place, for the command line, a sweep's workers and SLURM jobs alike.

Expected errors are those of `errors.py`, which say in one line what a user can mend or what became of a run, and what a machine
does to any run: Ctrl-C, a signal, a reader that has gone away, a full disk. Each has its exit code and at most one line. Every
other error is a fault of the code: it passes through here with its traceback, and Python ends with exit code 1.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from lit_degrade.errors import Diverged, OutOfMemory, UserError, disk_full

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED, NOBODY_READS = 1, 2, 3, 130, 141
"""The last two are what a shell reports for a command that SIGINT or SIGPIPE has ended."""
_AGAIN = "the same command starts again, or goes on where it was."
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a run to end: Ctrl-C, a scheduler, a terminal that was closed."""


class Terminated(SystemExit):
    """A run was asked to end by SIGTERM or SIGHUP; the record says that it was interrupted."""


def exit_code(verb: Callable[[], int | None]) -> int:
    """Run a verb; returns its exit code: 0 done (or what the verb says), or that of the expected error that has ended it.

    Raises: SystemExit from within the verb, as --help does it; errors that are not expected, with their traceback.
    """
    with _signals_raise():
        try:
            code = verb() or 0
            sys.stdout.flush()
        except BaseException as error:
            outcome = _outcome(error)
            if outcome is None:
                raise
            code, line = outcome
            _say(line)
        return code


def _outcome(error: BaseException) -> tuple[int, str] | None:
    """Exit code of an expected error and the line that says it; None for any other."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt | BrokenPipeError):
        error = error.__context__  # Lightning and rich make these an exit with code 1
    outcome: tuple[int, str] | None = None
    match error:
        case UserError():
            full = error.__cause__ is not None and disk_full(error.__cause__)  # no bad input, though another folder helps
            outcome = FAILED if full else BAD_INPUT, str(error)
        case OutOfMemory():
            outcome = FAILED, str(error)
        case Diverged():
            outcome = DIVERGED, f"diverged: {error}"
        case KeyboardInterrupt():
            outcome = INTERRUPTED, f"interrupted; {_AGAIN}"
        case Terminated():
            outcome = int(error.code or 0), f"ended by a signal; {_AGAIN}"
        case BrokenPipeError() if _nobody_reads():
            outcome = NOBODY_READS, ""
        case _ if disk_full(error):
            said = " ".join(str(error).split())
            outcome = FAILED, f"the disk is full ({said}). Nothing half-written is left; free some space, and {_AGAIN}"
    return outcome


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that ask a run to end wait until this is over; then the first of them takes effect."""
    arrived: list[int] = []
    kept = [(number, signal.signal(number, lambda n, frame: arrived.append(n))) for number in ENDING]
    try:
        yield
    finally:
        for number, handler in kept:
            signal.signal(number, handler)
    for first in arrived[:1]:
        signal.raise_signal(first)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated, as SIGINT raises KeyboardInterrupt; a signal that is ignored (`nohup`) stays so."""
    kept = [(number, signal.getsignal(number)) for number in ENDING]
    for number, handler in kept[1:]:
        if handler == signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in kept:
            signal.signal(number, handler)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(128 + signum)


def _say(line: str) -> None:
    """One line on standard error; an empty one says that nobody reads, and that what Python holds back goes nowhere."""
    if not line:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with suppress(OSError):  # standard error may be a file on the disk that is full
        print(f"lit_degrade: {line}", file=sys.stderr)


def _nobody_reads() -> bool:
    """Whether standard output or standard error is a pipe whose reader has gone."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)  # errors are told without being asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))
