"""Loggers of a run: our own record always, and W&B online when logged in and reachable, else offline and silent."""

import json
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from lightning.pytorch.loggers import Logger

from lit_degrade.errors import UserError
from lit_degrade.records.mode import PROJECT, Mode
from lit_degrade.records.run_record import RunRecord

_STAGING: dict[str, str] = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"), "")
"""Where W&B stages files; what we set for one run is ours to change for the next, what the user set is not."""
_LIMITS_S = {"WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "300"}
"""How long the client tries to start a run, and to send what is left at its end, unless the user says otherwise."""
ANSWER_S = 90.0
"""How long a call of the client is waited for: above the 20 s after which the client itself gives a server up."""
COPIED_PER_S = 20e6
"""Bytes of an artifact that are copied and hashed in a second at the very least."""
T = TypeVar("T")


class _OfRecord(Logger):
    """A Lightning logger that belongs to a run record."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__()
        self.record = record

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.record.experiment

    @property
    def version(self) -> str:
        """Id of the run."""
        return self.record.run_id

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the record, and the W&B run, have the whole resolved config already."""


class RecordLogger(_OfRecord):
    """Appends every logged value to the run record's metrics."""

    @property
    def root_dir(self) -> str:
        """Folder that files of the run belong in."""
        return str(self.record.partial)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep one row per optimizer step."""
        self.record.log(step or 0, {key: float(value) for key, value in metrics.items() if key != "epoch"})


class WandbTracker(_OfRecord):
    """Logs to a W&B run that has started. The run record never depends on it.

    Artifacts are logged when the record is in place, and from there. Every call of the client is made on its own thread and is
    waited for at most ANSWER_S seconds; one that fails, or does not come back, becomes a caution in the record, and W&B gets
    nothing more of this run but its end. What it got until then lies in the W&B run's own folder, for `wandb sync`.
    """

    def __init__(self, record: RunRecord, run: Any) -> None:
        """Track `record` as a W&B run, and note in it where that is."""
        super().__init__(record)
        self.run = run
        self.lost = False
        """whether a call has failed"""
        self.later: list[Callable[[], None]] = []
        folder = os.path.relpath(run.settings.sync_dir, record.folder.parent)
        record.notes["wandb"] = {"run": run.path, "mode": "offline" if run.offline else "online", "folder": folder}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values of a step."""
        self._tell(lambda: self.run.log({**metrics, "trainer/global_step": step or 0}))

    def use_subject(self, lineage: Sequence[Mapping[str, Any]]) -> None:
        """At the end, draw the edge from the subject that the run starts from; offline, the metadata carries it instead."""
        if not self.run.offline:
            self.later.append(lambda: self._tell(lambda: use_subject(self.run, lineage)))

    def log_artifact(self, file: str, name: str, kind: str, metadata: dict[str, Any]) -> None:
        """At the end, log a file or folder of the record, where there is one."""
        self.later.append(lambda: self._log_artifact([self.record.folder / file], name, kind, metadata))

    def log_outputs(self, pattern: str, name: str, metadata: dict[str, Any]) -> None:
        """At the end, log generated text: files as one artifact, and their objects as the rows of one table, `generations`."""

        def log() -> None:
            files = sorted(self.record.folder.glob(pattern))
            if files:
                self._log_artifact(files, name, "outputs", metadata)
                self._tell(lambda: self.run.log({"generations": _table(files)}), files)

        self.later.append(log)

    def finish(self, exit_code: int) -> None:
        """Log what was to come at the end, give the run the summary, and end it: all is on disk (offline) or sent (online)."""

        def end() -> None:
            self.run.summary.update({"run_id": self.record.run_id, **self.record.summary})
            self.run.finish(exit_code=exit_code)

        if exit_code == 0:
            for call in self.later:
                call()
        self.lost = False
        self._tell(end, more_s=self.run.settings.finish_timeout)

    def _log_artifact(self, files: Sequence[Path], name: str, kind: str, metadata: dict[str, Any]) -> None:
        files = [path for path in files if path.exists()]
        if files:
            self._tell(lambda: self.run.log_artifact(_artifact(files, name, kind, metadata)), files)

    def _tell(self, call: Callable[[], Any], files: Sequence[Path] = (), more_s: float = 0.0) -> None:
        if self.lost:
            return
        try:
            _within(ANSWER_S + more_s + sum(map(_bytes, files)) / COPIED_PER_S, call)
        except Exception as error:  # the client raises classes of several libraries
            self.lost = True
            self.record.caution(f"W&B: {_said(error)}. The record does without it; `wandb sync` sends what W&B has got.")


def wandb_tracker(record: RunRecord, mode: Mode) -> WandbTracker | None:
    """Start a W&B run with the record's id and config, writing below the results folder and nowhere else.

    One that cannot be started online is offline; the record notes why. None where it cannot be started at all.
    """
    import wandb

    for each in dict.fromkeys((mode, "offline")):
        try:
            return WandbTracker(record, _within(ANSWER_S, partial(_start, record, each)))
        except Exception as error:  # as above
            record.caution(f"W&B cannot run {each}: {_said(error)}.")
            with suppress(TimeoutError):
                _within(ANSWER_S, wandb.teardown)  # what has begun to start would be in the way of the next
    return None


def _start(record: RunRecord, mode: str) -> Any:
    import wandb

    root = record.folder.parent.parent
    (root / "wandb").mkdir(exist_ok=True)
    logging.raiseExceptions = False  # W&B keeps a log below it, and on a full disk every line of that would be a traceback here
    for variable, ours in _STAGING.items():
        if os.environ.get(variable, ours) == ours:
            folder = variable.removeprefix("WANDB_").removesuffix("_DIR").lower()
            _STAGING[variable] = os.environ[variable] = str(root.absolute() / "wandb" / folder)
    for variable, limit in _LIMITS_S.items():
        os.environ.setdefault(variable, limit)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=os.environ.get("WANDB_RUN_ID", record.run_id),  # `wandb agent` names the runs of its sweep itself
        name=f"{record.experiment}-{record.run_id}",
        group=record.experiment,
        dir=root,
        mode=cast(Mode, mode),
        config=record.config,
        settings=wandb.Settings(silent=True, console="off", finish_timeout_raises=True),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives, made on a thread of its own, which is left to itself when it takes longer.

    Raises: TimeoutError, or what the call raises.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # told to whoever waits
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} s") from error


def use_subject(run: Any, lineage: Sequence[Mapping[str, Any]]) -> None:
    """Draw the edge from the subject that a run starts from to the run.

    A subject that a run of this project logged is that run's artifact; any other is named, and holds its hash only.
    """
    import wandb

    last = lineage[-1]
    if "run_id" in last:
        name = f"{run.entity}/{run.project}/subject-{last['run_id']}"
        if wandb.Api().artifact_exists(f"{name}:latest"):
            run.use_artifact(f"{name}:latest")
            return
    name = last["run_id"] if "run_id" in last else Path(last["name"]).name
    subject = wandb.Artifact(f"subject-{name}", "subject", metadata={"sha256": last["sha256"]})
    with subject.new_file("sha256.txt") as file:  # artifacts are told apart by their files, not by their metadata
        file.write(last["sha256"])
    run.use_artifact(subject)


def _artifact(paths: Sequence[Path], name: str, kind: str, metadata: dict[str, Any]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, kind, metadata=metadata)
    for path in paths:
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
    return artifact


def _table(files: Sequence[Path]) -> Any:
    import wandb

    rows = [{**row, **row["gen_params"]} for path in files for row in json.loads(path.read_text(encoding="utf-8"))]
    columns: list[Any] = [key for key in rows[0] if key != "gen_params"]
    return wandb.Table(columns, [[row[key] for key in columns] for row in rows], allow_mixed_types=True)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")


def fetch_subject(name: str, folder: Path) -> Path:
    """Download a subject that was logged as an artifact (ENTITY/PROJECT/NAME:VERSION) below `folder`; returns its folder.

    Raises: UserError in one line when it cannot be had.
    """
    import wandb

    try:
        artifact = wandb.Api().artifact(name)
        return Path(artifact.download(root=str(folder / artifact.digest)))
    except Exception as error:  # the client raises classes of several libraries
        raise UserError(f"W&B artifact '{name}' cannot be had: {' '.join(str(error).split())[:300]}") from error
