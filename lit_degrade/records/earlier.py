"""Records that were made under the ids of earlier versions, found again by what they are the record of.

Until version 0.1 an id was the hash of the whole resolved config, every default of ours and of Lightning's included. Such a
record holds that config, so what it is the record of can be told from it; that what its config names was then what it is now
follows from its old id and from the hashes in its manifest.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_degrade.errors import UserError
from lit_degrade.records import paths
from lit_degrade.records.identity import Identity, hash_of, identify
from lit_degrade.subjects.files import base_of, content_files, content_sha256, files_sha256, locate
from lit_degrade.text import TextSource

NOT_HASHED = ("results", "verbosity", "config", "repeat", "cache_gb")
"""Top-level keys that did not enter the ids of version 0.1."""


def recorded_as(experiment: Path, config: Mapping[str, Any], identity: Identity, subject: str, attack: str) -> str:
    """The id under which a run is recorded, or would be.

    Args:
        experiment: folder that its record lies in.
        config: its resolved config.
        identity: what it is.
        subject: name or folder that its subject is loaded from.
        attack: id under which the attack before it is recorded.
    """
    if not (experiment / identity.run_id).is_dir() and experiment.is_dir():
        for folder, manifest in _manifests(experiment, experiment.stat().st_mtime_ns).items():
            if "identity" in manifest:
                if hash_of(manifest["identity"]) == identity.run_id:
                    return folder.name
            elif _is_record_of(folder, manifest, config, identity, subject, attack):
                return folder.name
    return identity.run_id


def earlier_id(verb: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The id that version 0.1 gave a run.

    Args:
        verb: of the command line.
        config: its whole resolved config.
        inputs: hashes of a subject folder's files, and the id of the attack before it, where there are any.
    """
    what = {"verb": verb} | {key: value for key, value in config.items() if key not in NOT_HASHED}
    return hash_of(what | ({"inputs": dict(inputs)} if inputs else {}))


@functools.lru_cache(maxsize=4)
def _manifests(experiment: Path, mtime_ns: int) -> dict[Path, dict[str, Any]]:
    """Manifests of all records below a folder that can be read."""
    manifests = {}
    for path in sorted(experiment.glob(f"[!.]*/{paths.MANIFEST}")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # a broken record is no record; `report` names it
        if isinstance(manifest, dict):
            manifests[path.parent] = manifest
    return manifests


@functools.cache
def _config(folder: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((folder / paths.CONFIG).read_text(encoding="utf-8"), loader)  # noqa: S506


def _is_record_of(
    folder: Path, manifest: Mapping[str, Any], config: Mapping[str, Any], identity: Identity, subject: str, attack: str
) -> bool:
    """Whether a record of version 0.1 is one of this run, made of the same subject and texts."""
    try:
        then = _config(folder)
        of = subject if then["subject"] == config["subject"] else str(then["subject"])
        if identify(manifest["verb"], then, of, identity.what.get("attack", "")).what != identity.what:
            return False
    except (OSError, KeyError, AttributeError, ImportError, UserError, yaml.YAMLError):
        return False  # of a setting or a module that is no more, or of files that are no more
    inputs = {"subject": files_sha256(Path(locate(of)))} if content_sha256(of) else {}
    inputs |= {"attack": attack} if attack else {}
    return earlier_id(manifest["verb"], then, inputs) == folder.name and _same_contents(then, manifest, identity, of)


def _same_contents(config: Mapping[str, Any], manifest: Mapping[str, Any], identity: Identity, subject: str) -> bool:
    """Whether what a config names by its place, and its old id did not depend on, is what it was; unknown is no."""
    kept, source = manifest.get("sha256", {}), Path(config["text"]["source"]).expanduser()
    of_subject = {str(path) for path in content_files(subject)}
    base = base_of(Path(locate(subject))) if of_subject else None
    if base is not None and content_sha256(base):
        return False
    if source.is_file() and kept.get("text") != TextSource(**config["text"]).sha256:
        return False
    others = {sha256 for path, sha256 in identity.files.items() if path not in {*of_subject, str(source)}}
    return others <= set(kept.values())
