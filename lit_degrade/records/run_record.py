"""The run record: one folder per run, prepared out of sight and put in place whole."""

import csv
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from lit_degrade.errors import UserError, disk_full
from lit_degrade.records import paths
from lit_degrade.records.conditions import ExitState, Fact
from lit_degrade.records.identity import Identity
from lit_degrade.records.lock import Lock, StillHeldError
from lit_degrade.records.provenance import peak_memory, provenance
from lit_degrade.records.reading import defect_of, state_of
from lit_degrade.records.tables import COURSE, Schema

ENDED = ("done", "diverged")
"""States of runs that came to their end: their record is the answer."""


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
    return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False)


class RunRecord:
    """Collects what a run produces; `close` writes the rest and moves the folder into place.

    Until then everything lies in a hidden folder beside it, guarded by a lock while this process lives. Whatever a process that
    was killed has left is mended by the next start of the same run: a half record is cleared away, and an earlier record that
    was to be replaced is put back.
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
        self.replaced = parent / f".{self.run_id}.replaced"
        """an earlier record while this one takes its place"""
        self.ancestors: list[Path] = []
        """folders of the records of what was done to the subject before, the earliest first"""
        self.summary: dict[str, Fact] = {}
        self.metrics: list[dict[str, float]] = []
        self.durations_s: dict[str, float] = {}
        self.hashes: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        self._created: list[Path] = []
        self._closed = False
        self._journal = ""
        self._lock = Lock(parent / f".{self.run_id}.lock", f"run {self.run_id}")
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)

    def finished(self) -> ExitState | Literal["broken"] | None:
        """How an earlier run of the same config ended, if it left a record; broken when that record cannot be read."""
        return state_of(self.folder)

    def open(self, journal: str = "") -> None:
        """Make the hidden folder, after any other process that is writing the same record has ended.

        Args:
            journal: file name; what an earlier run of the same config that did not come to its end left there is kept.

        Raises: UserError when the results folder cannot be written, or another process does not end.
        """
        self._journal = journal
        try:
            for parent in reversed(self.partial.parents):
                if not parent.exists():
                    parent.mkdir(exist_ok=True)
                    self._created.append(parent)
            self._lock.take()
            self._mend()
            self.partial.mkdir(exist_ok=True)
            self._clear()
            if self.finished() == "broken":
                self.caution(f"the record in {self.folder} cannot be read ({defect_of(self.folder)}) and is made again.")
            begun = journal and not (self.partial / journal).exists() and (self.folder / journal).exists()
            if begun and self.finished() in ("failed", "interrupted"):
                shutil.copyfile(self.folder / journal, self.partial / journal)
        except StillHeldError as error:
            raise UserError(f"{error}.") from error
        except OSError as error:
            self.discard()
            raise UserError(
                f"Results folder '{self.partial.parent.parent}' cannot be written: {error.strerror or error}. "
                "Choose another with --results FOLDER."
            ) from error

    def caution(self, text: str) -> None:
        """Say what a reader of this record must know, and note it in the manifest, which may be in its place already."""
        self.notes.setdefault("cautions", []).append(text)
        print(f"lit_degrade: caution: {text}", file=sys.stderr)
        if self._closed:
            manifest = self.folder / paths.MANIFEST
            with suppress(OSError):  # the record stands without it
                noted = {**json.loads(manifest.read_text(encoding="utf-8")), "cautions": self.notes["cautions"]}
                self.save_text(paths.MANIFEST, json.dumps(noted, indent=2) + "\n")

    def add(self, **facts: Fact) -> None:
        """Add columns to the summary row."""
        self.summary.update(facts)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of a step of metrics.csv."""
        if not self.metrics or self.metrics[-1]["step"] != step:
            self.metrics.append({"step": step})
        self.metrics[-1].update(values)

    @contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Where to write a file or folder of the record: it takes its name when it is whole, and else nothing is left of it."""
        path = self._place / name
        path.parent.mkdir(exist_ok=True)
        hidden = path.with_name(f".{path.name}")
        try:
            yield hidden
            hidden.replace(path)
        except BaseException:
            _remove(hidden)
            raise

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        """Write tensors as safetensors; returns the file."""
        from safetensors.torch import save_file

        with self.whole(name) as path:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path, dict(metadata or {}))
        return self._place / name

    def save_text(self, name: str, text: str) -> Path:
        """Write a text file; returns it."""
        with self.whole(name) as path:
            path.write_text(text, encoding="utf-8")
        return self._place / name

    def save_table(self, schema: Schema, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as CSV, columns in order of first appearance; returns the file.

        Raises: ValueError for rows that do not fit the schema.
        """
        schema.check(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with self.whole(schema.file) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return self._place / schema

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds spent inside to the manifest's durations."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.durations_s[what] = self.durations_s.get(what, 0.0) + time.monotonic() - start

    def close(self, exit_state: ExitState, detail: str = "") -> Path:
        """Write summary, metrics, config and manifest, and move the folder into place; returns it.

        A record of a run that came to its end is not replaced by one of a repeat that did not.

        Raises: OSError when the disk is full: there is then a small record that says that the run failed, or none at all.
        """
        if exit_state not in ENDED and self.finished() in ENDED:
            self.discard()
            print(f"lit_degrade: the earlier record stays as it was: {self.folder}", file=sys.stderr)
            return self.folder
        try:
            self._close(exit_state, detail)
        except OSError as error:
            if disk_full(error):
                self._clear()
                self.metrics.clear()
                if self.finished() not in ENDED:
                    with suppress(OSError):  # there may be no room even for that
                        self._close("failed", f"{type(error).__name__}: {error}")
                self.discard()
            raise
        finally:
            self._lock.release()
        return self.folder

    def _close(self, exit_state: ExitState, detail: str) -> None:
        self.durations_s["total"] = time.monotonic() - self._started
        self.save_text(paths.CONFIG, to_yaml(self.config))
        self.save_table(COURSE, self.metrics or [{"step": 0}])
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
        if self.folder.exists():
            self.folder.rename(self.replaced)
        self.partial.rename(self.folder)
        self._closed = True
        _remove(self.replaced)

    def discard(self) -> None:
        """Remove everything this record has written, but for a journal to go on from, and the folders it made."""
        if self._lock.held:
            with suppress(OSError):
                self._clear()
                self.partial.rmdir()
            self._lock.release()
        for path in reversed(self._created):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    @property
    def _place(self) -> Path:
        return self.folder if self._closed else self.partial

    def _mend(self) -> None:
        """Undo what a process that was killed while it replaced a record has left half done."""
        if self.replaced.exists() and not self.folder.exists():
            self.replaced.rename(self.folder)
        _remove(self.replaced)

    def _clear(self) -> None:
        """Empty the hidden folder, but for a journal that has entries."""
        for left_over in self.partial.iterdir():
            if left_over.name != self._journal or not left_over.stat().st_size:
                _remove(left_over)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
