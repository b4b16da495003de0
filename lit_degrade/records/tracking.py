"""Loggers of a run: our own record always, and W&B online when logged in and reachable, else offline and silent."""

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from lit_degrade.errors import UserError
from lit_degrade.records.mode import PROJECT, Mode
from lit_degrade.records.run_record import RunRecord

_STAGING: dict[str, str] = dict.fromkeys(("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"), "")
"""Where W&B stages files; what we set for one run is ours to change for the next, what the user set is not."""


class RecordLogger(Logger):
    """Lightning logger that appends every logged value to the run record's metrics."""

    def __init__(self, record: RunRecord) -> None:
        """Log into `record`."""
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

    @property
    def root_dir(self) -> str:
        """Folder that files of the run belong in."""
        return str(self.record.partial)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep one row per optimizer step."""
        self.record.log(step or 0, {key: float(value) for key, value in metrics.items() if key != "epoch"})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the record holds the whole resolved config already."""


def wandb_logger(record: RunRecord, mode: Mode) -> WandbLogger:
    """Lightning's W&B logger with the record's id and config, writing below the results folder and nowhere else."""
    import wandb

    root = record.folder.parent.parent
    (root / "wandb").mkdir(exist_ok=True)
    for variable, ours in _STAGING.items():
        if os.environ.get(variable, ours) == ours:
            folder = variable.removeprefix("WANDB_").removesuffix("_DIR").lower()
            _STAGING[variable] = os.environ[variable] = str(root.absolute() / "wandb" / folder)
    wandb_run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=os.environ.get("WANDB_RUN_ID", record.run_id),  # `wandb agent` names the runs of its sweep itself
        name=f"{record.experiment}-{record.run_id}",
        group=record.experiment,
        dir=root,
        mode=mode,
        config=record.config,
        settings=wandb.Settings(silent=True, console="off"),
    )
    wandb_run.define_metric("trainer/global_step")
    wandb_run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=wandb_run)


def use_subject(logger: WandbLogger, lineage: Sequence[Mapping[str, Any]]) -> None:
    """Draw the edge from the subject that a run starts from to the run; offline W&B cannot, and metadata carries it instead.

    A subject that a run of this project logged is that run's artifact; any other is named, and holds its hash only.
    """
    import wandb

    run, last = logger.experiment, lineage[-1]
    if run.offline:
        return
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


def log_artifact(logger: WandbLogger, path: Path, name: str, kind: str, metadata: dict[str, Any]) -> None:
    """Log a file or folder, where there is one."""
    import wandb

    if path.exists():
        artifact = wandb.Artifact(name, kind, metadata=metadata)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        logger.experiment.log_artifact(artifact)


def log_outputs(logger: WandbLogger, files: Sequence[Path], name: str, metadata: dict[str, Any]) -> None:
    """Log generated text: the files as one artifact, and their objects as the rows of one table, `generations`."""
    import wandb

    artifact = wandb.Artifact(name, "outputs", metadata=metadata)
    rows: list[dict[str, Any]] = []
    for path in files:
        artifact.add_file(str(path))
        rows += [{**row, **row["gen_params"]} for row in json.loads(path.read_text(encoding="utf-8"))]
    logger.experiment.log_artifact(artifact)
    columns: list[Any] = [key for key in rows[0] if key != "gen_params"]
    logger.experiment.log(
        {"generations": wandb.Table(columns, [[row[key] for key in columns] for row in rows], allow_mixed_types=True)}
    )


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


def finish_wandb(loggers: list[Logger], record: RunRecord, exit_code: int) -> None:
    """Give the W&B run the record's summary, and end it so that everything is on disk (offline) or sent (online)."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.summary.update({"run_id": record.run_id, **record.summary})
            record.notes["wandb"] = {
                "run": logger.experiment.path,
                "mode": "offline" if logger.experiment.offline else "online",
                "folder": os.path.relpath(logger.experiment.settings.sync_dir, record.folder.parent),
            }
            wandb.finish(exit_code=exit_code)
