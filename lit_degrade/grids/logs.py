"""Outputs of runs: one file each, written by one process at a time."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path


def open_log(path: Path) -> int:
    """Descriptor of an emptied file for the output of this process: `path`, or one beside it while another process writes that.

    The file is this process's own until it ends.
    """
    for own in _names(path):
        file = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        os.ftruncate(file, 0)
        return file
    raise AssertionError("there is no end of names")


def last_words(path: Path) -> str:
    """Last line of the latest output that `open_log` was asked for under this name; nothing where there is none."""
    written = list(itertools.takewhile(Path.is_file, _names(path)))
    if not written:
        return ""
    said = max(written, key=lambda file: file.stat().st_mtime_ns).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(said) if line.strip()), "")


def _names(path: Path) -> Iterator[Path]:
    return itertools.chain([path], (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(2)))
