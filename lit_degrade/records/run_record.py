"""The run record: one folder per run, prepared out of sight and put in place whole."""

import csv
import fcntl
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.records import paths
from lit_degrade.records.conditions import ExitState, Fact
from lit_degrade.records.identity import Identity
from lit_degrade.records.provenance import peak_memory, provenance


def plain(value: Any) -> Any:
    """Strict JSON: non-finite numbers become the strings 'nan', 'inf', '-inf', so that they are kept and seen."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Writes text that other readers of YAML than this library's take for a number, such as 1e3, in quotes."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789"))


def to_yaml(config: Mapping[str, Any]) -> str:
    """A config as a file that gives the same one again."""
    return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class RunRecord:
    """Collects what a run produces; `close` writes the rest and moves the folder into place.

    Until then everything lies in a hidden folder beside it, locked while this process lives; the next start of the same run
    clears it away if this process was killed.
    """

    def __init__(self, verb: str, config: Mapping[str, Any], identity: Identity | None = None, run_id: str = "") -> None:
        """Name the record; nothing is written yet.

        Args:
            verb: of the command line.
            config: the resolved config as plain data, with `results` (root folder) and `experiment` (folder below it).
            identity: what the run is; of a record that no command line made, its verb and config, wherever it lies.
            run_id: the id that an earlier version gave it, if it is recorded under that.
        """
        self.verb = verb
        self.config = dict(config)
        self.identity = identity or Identity({"verb": verb, **{k: v for k, v in config.items() if k != "results"}}, {})
        self.run_id = run_id or self.identity.run_id
        self.files = dict(self.identity.files)
        """SHA-256 of every file that decided what this run is, by its path"""
        self.experiment = str(config["experiment"])
        parent = Path(config["results"]).expanduser() / self.experiment
        self.folder = parent / self.run_id
        self.partial = parent / f".{self.run_id}.partial"
        self.ancestors: list[Path] = []
        """folders of the records of what was done to the subject before, the earliest first"""
        self.summary: dict[str, Fact] = {}
        self.metrics: list[dict[str, float]] = []
        self.durations_s: dict[str, float] = {}
        self.hashes: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        self._created: list[Path] = []
        self._lock = -1
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)

    def finished(self) -> ExitState | None:
        """How an earlier run of the same config ended, if it left a record."""
        manifest = self.folder / paths.MANIFEST
        return json.loads(manifest.read_text())["exit_state"] if manifest.is_file() else None

    def open(self, journal: str = "") -> None:
        """Make the hidden folder and lock it, after any other process that is writing the same record has ended.

        Args:
            journal: file name; what an earlier run of the same config that did not come to its end left there is kept.

        Raises: UserError when the results folder cannot be written.
        """
        try:
            for parent in reversed(self.partial.parents):
                if not parent.exists():
                    parent.mkdir(exist_ok=True)
                    self._created.append(parent)
            self._take_lock()
            self._clear(journal)
            begun = journal and not (self.partial / journal).exists() and (self.folder / journal).exists()
            if begun and self.finished() in ("failed", "interrupted"):
                shutil.copyfile(self.folder / journal, self.partial / journal)
        except OSError as error:
            self.discard()
            raise UserError(
                f"Results folder '{self.partial.parent.parent}' cannot be written: {error.strerror or error}. "
                "Choose another with --results FOLDER."
            ) from error

    def add(self, **facts: Fact) -> None:
        """Add columns to the summary row."""
        self.summary.update(facts)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of a step of metrics.csv."""
        if not self.metrics or self.metrics[-1]["step"] != step:
            self.metrics.append({"step": step})
        self.metrics[-1].update(values)

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        """Write tensors as safetensors; returns the file."""
        from safetensors.torch import save_file

        path = self.partial / name
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path, dict(metadata or {}))
        return path

    def save_text(self, name: str, text: str) -> Path:
        """Write a text file; returns it."""
        path = self.partial / name
        path.write_text(text, encoding="utf-8")
        return path

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as CSV, columns in order of first appearance; returns the file."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        path = self.partial / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return path

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds spent inside to the manifest's durations."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.durations_s[what] = self.durations_s.get(what, 0.0) + time.monotonic() - start

    def close(self, exit_state: ExitState, detail: str = "") -> Path:
        """Write summary, metrics, config and manifest, and move the folder into place; returns it."""
        self.durations_s["total"] = time.monotonic() - self._started
        self.save_text(paths.CONFIG, to_yaml(self.config))
        self.save_table(paths.METRICS, self.metrics or [{"step": 0}])
        summary = {"run_id": self.run_id, "experiment": self.experiment, "exit_state": exit_state, **self.summary}
        self.save_text(paths.SUMMARY, json.dumps(plain(summary), indent=2) + "\n")
        manifest = {
            "run_id": self.run_id,
            "verb": self.verb,
            "identity": self.identity.what,
            "exit_state": exit_state,
            "detail": detail,
            "started": self._started_at.isoformat(timespec="seconds"),
            "durations_s": {key: round(value, 3) for key, value in self.durations_s.items()},
            "peak_memory_bytes": peak_memory(),
            "seed": self.config.get("seed_everything"),
            "sha256": self.hashes,
            **self.notes,
            **provenance(),
        }
        self.save_text(paths.MANIFEST, json.dumps(plain(manifest), indent=2) + "\n")
        replaced = self.folder.with_name(f".{self.run_id}.replaced")
        with suppress(FileNotFoundError):
            self.folder.rename(replaced)
        self.partial.rename(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        self._unlock()
        return self.folder

    def discard(self, journal: str = "") -> None:
        """Remove everything this record has written but a journal, and the folders it made."""
        with suppress(OSError):
            self._clear(journal)
            self.partial.rmdir()
        self._unlock()
        for path in reversed(self._created):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _clear(self, journal: str) -> None:
        """Empty the hidden folder, but for a journal that has entries."""
        for left_over in self.partial.iterdir():
            if left_over.is_dir():
                shutil.rmtree(left_over)
            elif left_over.name != journal or not left_over.stat().st_size:
                left_over.unlink()

    def _take_lock(self) -> None:
        """Lock the hidden folder itself; the lock goes with the process, however it ends."""
        while True:
            self.partial.mkdir(exist_ok=True)
            lock = os.open(self.partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"lit_degrade: run {self.run_id} is being written by another process; waiting for it.", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), self.partial.stat()):
                    self._lock = lock
                    return
            os.close(lock)  # the other process has put its folder in place

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
