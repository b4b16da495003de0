"""Subject, stimulus and spectra as artifacts with lineage."""

from typing import Any

import lightning.pytorch as pl

from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import paths
from lit_degrade.records.tracking import WandbTracker
from lit_degrade.subjects.loading import save_stage, weights_sha256


class RegisterArtifacts(pl.Callback):
    """Save the trained subject into the record and register everything kept there with W&B.

    Lineage is by content: `lineage.json` beside the saved weights, the record's manifest and each artifact's metadata name
    every stage from the intact subject to this one, with hashes, of the saved files too: a folder that holds others is not
    loaded. Online, W&B's own lineage is drawn too (the subject that the run started from is used, the one that it made is
    logged).
    """

    def __init__(self, save_subject: bool = True) -> None:
        """Whether to keep the trained subject (its size on disk is the subject's own)."""
        self.save_subject = save_subject

    def on_fit_end(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Save and register."""
        record, subject = pl_module.record, pl_module.subject
        record.hashes["subject_after"] = weights_sha256(subject.model)
        before = list(subject.lineage) or [{"name": subject.spec.name, "sha256": subject.sha256}]
        if len(before) == 1:
            before = [{**before[0], **_measured(pl_module, "pre")}]
        stage = {"run_id": record.run_id, "experiment": record.experiment, "sha256": record.hashes["subject_after"]}
        lineage = [*before, {**stage, **_measured(pl_module, "post")}]
        kinds = {paths.STIMULUS: "stimulus", paths.SPECTRA: "spectra"}
        if self.save_subject:
            with record.whole(paths.SUBJECT) as folder:
                save_stage(subject, folder, lineage)
            kinds[paths.SUBJECT] = "subject"
        record.notes["lineage"] = lineage
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.use_subject(before)
                for name, kind in kinds.items():
                    logger.log_artifact(name, f"{kind}-{record.run_id}", kind, {"lineage": lineage})

    def on_predict_end(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Register the generated text, as files and as a table."""
        record = pl_module.record
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.log_outputs(paths.OUTPUTS, f"outputs-{record.run_id}", {"sha256": record.hashes})


def _measured(module: SubjectModule, when: str) -> dict[str, Any]:
    """What is known of the subject before or after the run, with the probe that it was measured on."""
    summary = module.record.summary
    measured = {
        "nats_per_token": summary.get(f"nats_per_token_{when}"),
        "effective_rank": summary.get(f"effective_rank_{when}_layer{summary.get('rank_layer')}"),
    }
    return {"probe": module.probe_identity(), **{key: value for key, value in measured.items() if value is not None}}
