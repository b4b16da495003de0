"""Files and command lines that a user writes beside configs: their mistakes become one line."""

import argparse
import codecs
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lit_degrade.errors import UserError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks, and the encodings that they stand for."""
UNDECODED = "\ud800"
"""What bytes that are no text are read as: half a surrogate pair, which no decoder makes of text."""
codecs.register_error("undecoded", lambda error: (UNDECODED, error.end))  # type: ignore[attr-defined]
YAML_SUFFIXES = (".yaml", ".yml")


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, computed once for a file that does not change.

    Raises: OSError when it cannot be read.
    """
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoding_of(start: bytes) -> str:
    """Encoding that the byte-order mark at the start of a text names; UTF-8 where there is none."""
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file, read as they are asked for: UTF-8, or what its byte-order mark says; each ends in LF alone.

    Raises: OSError; ValueError, naming the line, for bytes that are no such text.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="undecoded") as lines:
        for number, line in enumerate(lines, 1):
            if UNDECODED in line:
                raise ValueError(f"line {number}: expected {encoding.removesuffix('-sig').upper()}, found bytes that are none")
            if "\0" in line:
                raise ValueError(f"line {number}: expected UTF-8, or UTF-16 with a byte-order mark, found a NUL byte")
            yield line


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Raises: UserError, saying `what` the file was to be, when it cannot be read, is not YAML or gives a key twice.
    """
    root = _composed(path, what)
    try:
        return yaml.SafeLoader("").construct_document(root) if root else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that no calendar has
        raise _not_yaml(path, what, error) from error


def check_configs(args: Sequence[str]) -> list[Path]:
    """Check the YAML files that a command line names, and those that they name, before its parser takes the last of equal keys.

    Returns: these files.
    Raises: UserError for one that is not UTF-8, is not YAML, holds no keys or gives one twice. Missing ones are the parser's.
    """
    checked: dict[str, Path] = {}
    for before, arg in zip(("", *args), args, strict=False):
        option, _, value = arg.partition("=") if arg.startswith("-") else (before, "", arg)
        whole = option in ("--config", "-c")
        if whole or value.endswith(YAML_SUFFIXES):
            _check_config(Path(os.path.expanduser(value)), checked, whole)
    return list(checked.values())


def _check_config(path: Path, checked: dict[str, Path], whole: bool = False) -> None:
    if not os.path.isfile(path) or os.path.realpath(path) in checked:
        return
    checked[os.path.realpath(path)] = path
    root = _composed(path, "Config")
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    if not encoding.startswith("utf-8"):
        raise UserError(f"Config '{path}' is {encoding.upper()}: expected UTF-8.")
    if whole and not isinstance(root, yaml.MappingNode):
        raise UserError(f"Config '{path}' holds no keys: expected KEY: VALUE in each line.")
    for node in _nodes(root):
        if isinstance(node, yaml.ScalarNode) and node.value.endswith(YAML_SUFFIXES):
            _check_config(path.parent / node.value, checked)


def _composed(path: Path, what: str) -> yaml.Node | None:
    """The tree of a YAML file, whose mappings have each key once; None when it holds nothing."""
    try:
        root = yaml.compose("".join(read_lines(path)), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"{what} '{path}' cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _not_yaml(path, what, error) from error
    for node in _nodes(root):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if (key.tag, key.value) in lines:
                    first = lines[key.tag, key.value]
                    raise UserError(f"{what} '{path}' gives the key '{key.value}' twice: in lines {first} and {line}.")
                lines[key.tag, key.value] = line
    return root


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Nodes of a YAML tree in the order of the file, each once however often the file refers to it."""
    seen: set[int] = set()
    left = [root] if root else []
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            if isinstance(node, yaml.MappingNode):
                left += [part for pair in reversed(node.value) for part in reversed(pair)]
            elif isinstance(node, yaml.SequenceNode):
                left += reversed(node.value)


def _not_yaml(path: Path, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()).replace(' in "<unicode string>",', ",")
    return UserError(f"{what} '{path}' is not YAML: {reason}")


_ASSIGNMENT = re.compile(r"(?:export\s+)?([^\W\d]\w*)\s*=(.*)")
_QUOTED = re.compile(r"""(["'])(.*?)\1\s*(#.*)?""")


def read_env(path: Path) -> None:
    """Set HF_ and WANDB_ variables, such as tokens, that a `.env` file gives as NAME=VALUE; what is set already stays.

    A value may be quoted, and a comment may follow it after white space. A folder of this name is somebody else's.

    Raises: UserError for a line that is neither that, nor empty, nor a comment; its text is not repeated, as it may be a token.
    """
    try:
        if not path.is_file():
            return
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    for number, line in enumerate(content.decode(encoding_of(content), "undecoded").splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line.strip())
        if not match:
            raise UserError(f"'{path}', line {number}, is not of the form NAME=VALUE.")
        name, value = match.groups()
        if not name.startswith(("HF_", "WANDB_")):
            continue
        quoted = _QUOTED.fullmatch(value.strip())
        value = quoted[2] if quoted else re.sub(r"\s#.*", "", value).strip()
        if not quoted and value.strip("\"'") != value:
            raise UserError(f"'{path}', line {number}: the quotes around {name} are no pair.")
        if UNDECODED in value or "\0" in value:
            raise UserError(f"'{path}', line {number}: {name} is not text in UTF-8.")
        if value:
            os.environ.setdefault(name, value)


class VerbParser(argparse.ArgumentParser):
    """Options of a verb of our own."""

    def __init__(self, verb: str, description: str) -> None:
        """Name the verb and say what it does."""
        super().__init__(prog=f"python -m lit_degrade {verb}", description=description, allow_abbrev=False)
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        """Raise: UserError."""
        raise UserError(f"{self.verb}: {message}. See: {self.prog} --help")
