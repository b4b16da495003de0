"""Subject, stimulus and spectra as artifacts with lineage."""

import json
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import paths
from lit_degrade.subjects.loading import weights_sha256


class RegisterArtifacts(pl.Callback):
    """Save the trained subject into the record and register everything kept there with W&B.

    Lineage is by content: the record's manifest and each artifact's metadata name the hash of the subject that this one was
    made from. Online, W&B's own lineage is drawn too (the intact subject is used, the attacked one logged).
    """

    def __init__(self, save_subject: bool = True) -> None:
        """Whether to keep the trained subject (its size on disk is the subject's own)."""
        self.save_subject = save_subject

    def on_fit_end(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Save and register."""
        record, subject = pl_module.record, pl_module.subject
        parent = record.hashes["subject"]
        child = weights_sha256(subject.model)
        record.hashes["subject_after"] = child
        lineage = {"intact": parent, "after": child, "run_id": record.run_id, "subject": subject.spec.name}
        record.notes["lineage"] = lineage
        kinds = {paths.STIMULUS: "stimulus", paths.SPECTRA: "spectra"}
        if self.save_subject:
            folder = record.partial / paths.SUBJECT
            subject.save(folder)
            (folder / "lineage.json").write_text(json.dumps(lineage, indent=2) + "\n")
            kinds[paths.SUBJECT] = "subject"
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _use_intact(logger, lineage)
                for name, kind in kinds.items():
                    _log(logger, record.partial / name, kind, lineage)


def _use_intact(logger: WandbLogger, lineage: dict[str, str]) -> None:
    """Draw the edge intact subject -> run; offline W&B cannot, and the metadata carries it instead."""
    import wandb

    if not logger.experiment.offline:
        name = Path(lineage["subject"]).name
        intact = wandb.Artifact(f"intact-{name}", "subject", metadata={"sha256": lineage["intact"]})
        logger.experiment.use_artifact(intact)


def _log(logger: WandbLogger, path: Path, kind: str, lineage: dict[str, str]) -> None:
    import wandb

    if path.exists():
        artifact = wandb.Artifact(f"{kind}-{lineage['run_id']}", kind, metadata=lineage)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        logger.experiment.log_artifact(artifact)
