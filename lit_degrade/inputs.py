"""Files and command lines that a user writes beside configs: their mistakes become one line."""

import argparse
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lit_degrade.errors import UserError


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


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Raises: UserError, saying `what` the file was to be, when it cannot be read or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} '{path}' cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} '{path}' is not YAML: {' '.join(str(error).split())}") from error


def read_env(path: Path) -> None:
    """Set HF_ and WANDB_ variables, such as tokens, that a `.env` file gives as NAME=VALUE; what is set already stays.

    Raises: UserError for a line that is neither that, nor empty, nor a comment; its text is not repeated, as it may be a token.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not name.strip().isidentifier():
            raise UserError(f"'{path}', line {number}, is not of the form NAME=VALUE.")
        value = value.strip().strip("\"'")
        if value and name.strip().startswith(("HF_", "WANDB_")):
            os.environ.setdefault(name.strip(), value)


class VerbParser(argparse.ArgumentParser):
    """Options of a verb of our own."""

    def __init__(self, verb: str, description: str) -> None:
        """Name the verb and say what it does."""
        super().__init__(prog=f"python -m lit_degrade {verb}", description=description, allow_abbrev=False)
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        """Raise: UserError."""
        raise UserError(f"{self.verb}: {message}. See: {self.prog} --help")
