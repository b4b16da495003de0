"""A user's text files: paragraphs of each, by the kind that its suffix names."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError
from lit_degrade.inputs import read_lines

_NAMES = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_LONGEST_CELL = 2**31 - 1
"""Characters in a cell of a CSV file; the module's own limit of 131072 is shorter than a chapter."""


def file_paragraphs(path: Path) -> Iterator[list[str]]:
    """Groups of neighbouring paragraphs: all lines of a .txt file; the text of each record of another kind by itself.

    Raises: UserError, naming the file, the place in it, what was found there and what was expected.
    """
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        found = f"is of kind '{suffix}'" if suffix else "has no suffix, which would name its kind"
        raise UserError(f"Text file '{path}' {found}. Available: {', '.join(KINDS)}. Rename it if it is one of these.")
    try:
        yield from KINDS[suffix](path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"Text file '{path}' cannot be read as {suffix}: {reason}.") from error


def _record(record: Any, where: str) -> str:
    """The text of a record: a string, or what an object has as `text`.

    Raises: ValueError, saying `where` the record is, for anything else.
    """
    if isinstance(record, Mapping):
        if "text" not in record:
            raise ValueError(f"{where}: expected text in field 'text', found {_listed('field', list(record))}")
        record = record["text"]
    return _text(record, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text in field 'text', found {_NAMES.get(type(value), type(value).__name__)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: expected text in field 'text', found half a surrogate pair in it") from error
    return value


def _listed(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:8])
    return f"the {what}s {shown}{' and others' if len(names) > 8 else ''}" if names else f"no {what}"


def _plain(path: Path) -> Iterator[list[str]]:
    yield [piece for line in read_lines(path) for piece in line.splitlines() if piece.strip()]


def _parsed(text: str, what: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {first_line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"{where}: expected a whole {what} in JSON, found none ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number too long, or lists too deep, for Python
        raise ValueError(f"line {first_line}: {error}") from error


def _json_lines(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield [_record(_parsed(line.rstrip("\n"), "record", number), f"line {number}")]


def _json(path: Path) -> Iterator[list[str]]:
    start = next((line.lstrip() for line in read_lines(path) if line.strip()), "")
    if start.startswith("["):
        for number, record in enumerate(_parsed("".join(read_lines(path)), "array"), 1):
            yield [_record(record, f"entry {number} of the array (from 1)")]
    else:
        yield from _json_lines(path)


def _csv(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    rows = _csv_rows(path)
    line, names = next(rows, (0, []))
    if line and names.count("text") != 1:
        raise ValueError(f"line {line}: expected one column 'text', found {_listed('column', names)}")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"line {line}: expected {len(names)} fields, as there are columns, found {len(row)}")
        yield [row[names.index("text")]]


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of the line where it starts."""
    rows = csv.reader(read_lines(path), strict=True)
    start = 1
    try:
        for row in rows:
            if row:
                yield start, row
            start = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {start}: {error}") from error


def _parquet(path: Path) -> Iterator[list[str]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if names.count("text") != 1:
                raise ValueError(f"expected one column 'text', found {_listed('column', names)}")
            for batch in file.iter_batches(columns=["text"]):
                for number, cell in enumerate(batch.column("text"), number + 1):  # noqa: B020
                    yield [_text(cell.as_py(), f"row {number} (from 1)")]
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"row {number} (from 1): expected UTF-8, found bytes that are none") from error


KINDS: Mapping[str, Callable[[Path], Iterator[list[str]]]] = {
    ".txt": _plain,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""Suffix, in lower case -> how such a file is read."""
