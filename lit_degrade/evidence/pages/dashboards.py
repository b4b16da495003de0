"""Saving W&B Reports: on the server when online, else as their specs on disk, without asking any server."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.pages.wandb_report import build_report, figures_run, media_key, wr
from lit_degrade.records.mode import PROJECT
from lit_degrade.subjects.hub import reachable

SPEC = "wandb_report.json"


def save_dashboards(sections: Sequence[Section], figures: Mapping[str, list[Path]], output: Path, online: bool) -> list[str]:
    """Save one report per section, or update the one that was saved into the same folder before.

    Args:
        sections: experiments of a report.
        figures: picture files of each experiment; those that are PNG files are shown.
        output: SPEC goes into the folder of each experiment below it.
        online: save on the server; else write the spec only.
    Returns: addresses of the saved reports, or paths of the specs.
    Raises: UserError in one line when the server does not take a report, or a spec cannot be written.
    """
    place = _place() if online else None
    places = []
    for section in sections:
        name = section.design.experiment
        pictures = [path for path in figures.get(name, []) if path.suffix == ".png" and path.is_file()]
        path = output / name / SPEC
        places.append(_save_online(section, pictures, path, place) if place else _save_offline(section, pictures, path))
    return places


def _save_offline(section: Section, pictures: Sequence[Path], path: Path) -> str:
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    report = build_report(section, pictures, "", project)
    _write(path, {"project": project} | _kept(path) | {"title": report.title, "spec": spec_of(report)})
    return str(path)


def _save_online(section: Section, pictures: Sequence[Path], path: Path, place: Mapping[str, str]) -> str:
    name, hint = section.design.experiment, ""
    report = build_report(section, pictures, place["entity"], place["project"])
    kept = _kept(path)
    if place.items() <= kept.items():
        report.id = str(kept.get("id", ""))
        hint = f" (if it was deleted there, delete {path} to make a new one)"
    with _one_line(f"W&B Report of {name} cannot be saved{hint}"):
        _log_report(name, path.parent, pictures, place)
        report.save()
        slug = re.sub(r"\W+", "-", report.title).strip("-")  # the client leaves what a title must not have in an address
        address = f"{report.url.split('/reports/')[0]}/reports/{slug}--{report.id}"
        spec = spec_of(report)
    _write(path, {"title": report.title, **place, "id": report.id, "url": address, "spec": spec})
    return address


def spec_of(report: wr.Report) -> dict[str, Any]:
    """What the server keeps of a report, but run sets and panels are numbered, not named at random: files can be compared."""
    spec: dict[str, Any] = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    for i, block in enumerate(spec["blocks"]):
        if block["type"] == "panel-grid":
            for j, runs in enumerate(block["metadata"]["runSets"]):
                runs["id"] = f"runs-{i}-{j}"
            for j, panel in enumerate(block["metadata"]["panelBankSectionConfig"]["panels"]):
                panel["__id__"] = f"panel-{i}-{j}"
    return spec


def _place() -> dict[str, str]:
    """Server, entity and project; the project is made if it is not there."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not reachable(url):  # asked first: the client itself would try again for minutes
        raise UserError(
            f"W&B server {_safe(url)} does not answer. With WANDB_MODE=offline the reports' specs are written instead."
        )
    with _one_line("W&B Reports cannot be saved"):
        wandb.setup(wandb.Settings(silent=True))  # it says where credentials are from, and every address before we do
        api = wandb.Api()
        entity, project = api.settings["entity"] or api.default_entity, os.environ.get("WANDB_PROJECT", PROJECT)
        if not entity:
            raise UserError("W&B Reports cannot be saved: the account has no default entity, set WANDB_ENTITY.")
        if all(known.name != project for known in api.projects(entity)):
            api.create_project(project, entity)
        return {"server": str(api.settings["base_url"]), "entity": str(entity), "project": project}


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Errors of the client, whose classes are of several libraries, as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {_safe(str(error) or type(error).__name__)}") from error


def _log_report(experiment: str, folder: Path, pictures: Sequence[Path], place: Mapping[str, str]) -> None:
    """Put the figures into the run that the report shows them from, and summaries and figures into an artifact of it.

    Figures of an updated report are the run's next step, and its files the artifact's next version.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        run = wandb.init(
            entity=place["entity"],
            project=place["project"],
            id=figures_run(experiment),
            name=figures_run(experiment),
            job_type="report",
            config={"report_of": experiment},  # not `experiment`, which would make it one of its runs
            dir=temporary,
            mode="online",
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=30, x_disable_stats=True),
        )
        if pictures:
            run.log({media_key(path): wandb.Image(str(path)) for path in pictures})
        files = wandb.Artifact(figures_run(experiment), "report")
        for path in sorted(path for path in folder.glob("*") if path.is_file() and path.name != SPEC):
            files.add_file(str(path), policy="immutable", skip_cache=True)  # from where it lies: no copy of ours outside
        run.log_artifact(files)
        run.finish()


def _kept(path: Path) -> dict[str, Any]:
    """What an earlier report left."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}.") from error


def _safe(text: str) -> str:
    """One line, not too long, without the key or a password."""
    key = os.environ.get("WANDB_API_KEY")
    line = " ".join((text.replace(key, "***") if key else text).split())
    return re.sub(r"//[^/@\s]*@", "//", line)[:300]
