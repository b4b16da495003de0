"""What decides a run's numbers, and nothing else: its id is the hash of that.

Of every key only what differs from its default is part of it, so that a new key whose default means "as before" leaves all ids
alone; what is named by its place enters by its content; where things lie, what is printed and what of Lightning cannot change
a number stay out.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lit_degrade.errors import UserError
from lit_degrade.inputs import file_sha256
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.files import content_files, content_sha256
from lit_degrade.text import TextSource

TRAINER = ("accelerator", "deterministic", "gradient_clip_algorithm", "gradient_clip_val", "max_steps")
"""Keys of the trainer that can change a number, beside the callbacks."""
_ABSENT = ("auto", None, False, 0, -1, "norm")
"""Values of these keys that mean what their absence means."""
_SPEC = ("precision", "adapter", "gradient_checkpointing")
"""Top-level keys that say how the subject is loaded."""
_SAME = object()
"""In place of a value that is its default."""


@dataclass(frozen=True)
class Identity:
    """What a run is."""

    what: dict[str, Any]
    """plain data: the verb, and all settings that are not their defaults, with hashes in place of what is named by its place"""
    files: dict[str, str]
    """SHA-256 of every file that these hashes are of, by its path"""

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits."""
        return hash_of(self.what)


def hash_of(what: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that identify plain data."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def identify(verb: str, config: Mapping[str, Any], subject: str, attack: str = "") -> Identity:
    """What a resolved config computes with a verb.

    Args:
        verb: of the command line.
        config: as plain data.
        subject: name or folder that its subject is loaded from.
        attack: id of the attack that the subject goes through before.

    Raises: UserError for a file or folder that the config names and that cannot be read.
    """
    model, trainer = config["model"], config.get("trainer") or {}
    files: dict[str, str] = {}
    settings = changed(class_at(model["class_path"]).__init__, model.get("init_args") or {})
    text = changed(TextSource.__init__, config.get("text") or {})
    what = {
        "verb": verb,
        "module": _name(model["class_path"]),
        "model": _by_content(settings, files),
        "subject": _subject(subject, files),
        **changed(SubjectSpec.__init__, {key: config[key] for key in _SPEC if key in config}),
        "text": text | {key: _file(value, files) for key, value in text.items() if key == "source"},
        "trainer": {key: trainer[key] for key in TRAINER if trainer.get(key) not in _ABSENT},
        "callbacks": sorted(map(_callback, trainer.get("callbacks") or ()), key=json.dumps),
        "seed": config["seed_everything"],
        "experiment": config["experiment"],
        "attack": attack,
    }
    return Identity(_plain({key: value for key, value in what.items() if value not in ("", {}, [])}), files)


def changed(function: Callable[..., Any], given: Mapping[str, Any], defaults: Any = None) -> dict[str, Any]:
    """Arguments that are not what a function takes by default; of those that are settings themselves, what of them is not.

    Args:
        function: the constructor of what is configured; a class of plain fields stands for its own.
        given: its arguments as plain data.
        defaults: an instance whose attributes are the defaults instead.
    """
    start = {key: p.default for key, p in inspect.signature(function).parameters.items()}
    if is_dataclass(function):
        start |= {f.name: f.default_factory() for f in fields(function) if f.default_factory is not MISSING}
    if defaults is not None:
        start |= {key: getattr(defaults, key) for key in start}
    hints = get_type_hints(function)
    values = {key: _changed(value, start.get(key), hints.get(key)) for key, value in given.items()}
    return {key: value for key, value in values.items() if value is not _SAME}


def _changed(value: Any, default: Any, hint: Any) -> Any:
    """A value; of settings what is not their default; or _SAME."""
    if _plain(value) == _plain(default):
        return _SAME
    settings = _settings(hint)
    if settings is None or not value:
        return value
    if isinstance(value, Mapping):
        return changed(settings, value, default if is_dataclass(default) else None)
    return [changed(settings, item) for item in value]


def _settings(hint: Any) -> type | None:
    """The dataclass that an annotation is made of, if it is."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((settings for part in get_args(hint) if (settings := _settings(part))), None)


def _plain(value: Any) -> Any:
    """A value as JSON holds it, whole numbers as integers: 1 and 1.0 are the same setting."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else str(value)
    return value


def class_at(path: str) -> Any:
    """The class that a config names by its place."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _name(path: str) -> str:
    """Classes of this package go by their names, wherever in it they lie."""
    return path.rpartition(".")[2] if path.startswith("lit_degrade.") else path


def _callback(entry: Mapping[str, Any]) -> list[Any]:
    return [_name(entry["class_path"]), changed(class_at(entry["class_path"]).__init__, entry.get("init_args") or {})]


def _subject(name: str, files: dict[str, str]) -> str:
    files |= {str(path): file_sha256(path) for path in content_files(name)}
    return content_sha256(name) or name


def _file(name: str, files: dict[str, str]) -> str:
    """A file enters by its content; what is none, such as a data set of the hub, by its name."""
    path = Path(name).expanduser()
    if not path.is_file():
        return name
    try:
        files[str(path)] = file_sha256(path)
    except OSError as error:
        raise UserError(f"'{name}' cannot be read: {error.strerror}.") from error
    return files[str(path)]


def _folder(name: str, files: dict[str, str]) -> dict[str, str]:
    """Hashes of all files below a folder, by their paths in it."""
    root = Path(name).expanduser()
    return {str(path.relative_to(root)): _file(str(path), files) for path in sorted(root.rglob("*")) if path.is_file()}


def _benchmark(asked: str, files: dict[str, str]) -> str:
    name, named_by_place, file = asked.partition("=")
    return f"{name}={_file(file, files)}" if named_by_place else asked


_NAMED_BY_PLACE: dict[str, Callable[[str, dict[str, str]], Any]] = {
    "selection": _file,
    "image": _file,
    "include_path": _folder,
    "beside": _subject,
    "benchmarks": _benchmark,
}
"""Arguments of modules and their settings that name files, folders or subjects -> how their content enters."""


def _by_content(settings: Any, files: dict[str, str]) -> Any:
    """Settings with the content of what they name by its place."""
    if isinstance(settings, Mapping):
        return {
            key: _contents(value, _NAMED_BY_PLACE[key], files) if key in _NAMED_BY_PLACE else _by_content(value, files)
            for key, value in settings.items()
        }
    return [_by_content(item, files) for item in settings] if isinstance(settings, list | tuple) else settings


def _contents(named: Any, content: Callable[[str, dict[str, str]], Any], files: dict[str, str]) -> Any:
    return content(named, files) if isinstance(named, str) else [content(name, files) for name in named]
