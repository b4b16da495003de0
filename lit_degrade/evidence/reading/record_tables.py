"""Tables that runs leave beside their records: read line by line, so that what is broken is named and the rest is shown."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lit_degrade.records.tables import DAMAGE, Schema

Tables = dict[Schema, pd.DataFrame]
"""Table of a record -> lines that runs left in it, maybe none."""
_TRUTH = {"true": True, "false": False}


def read_tables(rows: pd.DataFrame, schema: Schema) -> tuple[pd.DataFrame, list[str]]:
    """The tables of all runs that the filter leaves, one below the other.

    Args:
        rows: of runs, with `run_id`, `folder`, `state` and `filtered`.
        schema: which table.

    Returns: lines with the `run_id` of their run, where an empty cell is nan (not measured) and a cell that says nan is inf,
        like inf (measured, without a finite value), and damage that was not measured is inf; and what is wrong with the files,
        in sentences.
    """
    tables, cautions = [], []
    for run, folder, state in rows.loc[~rows["filtered"], ["run_id", "folder", "state"]].itertuples(index=False):
        path = Path(folder) / schema
        if not path.exists():
            continue
        try:
            table, faults = _parsed(path.read_bytes().decode("utf-8"), schema)
        except (OSError, ValueError, csv.Error) as error:
            cautions.append(f"{run}: {schema} cannot be read and is not shown: {_reason(error)}.")
            continue
        cautions += [f"{run}: {schema}: {fault}." for fault in faults]
        if state != "done":
            cautions.append(f"{run} is {state}: the {len(table)} lines that it left in {schema} are shown.")
        tables.append(table.assign(run_id=run))
    tables = [table for table in tables if len(table)]
    whole = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if len(whole) and schema.column(DAMAGE):
        whole = whole.assign(**{DAMAGE: whole[DAMAGE].fillna(math.inf)})
    return whole, cautions


def read_all(rows: pd.DataFrame, schemas: Sequence[Schema]) -> tuple[Tables, list[str]]:
    """Several tables (see `read_tables`), and what is wrong with any of their files."""
    tables = {schema: read_tables(rows, schema) for schema in schemas}
    return {schema: table for schema, (table, _) in tables.items()}, [it for _, faults in tables.values() for it in faults]


def read_counted(rows: pd.DataFrame, schemas: Sequence[Schema]) -> tuple[Tables, list[str]]:
    """As `read_all`, without lines whose counts or numbers of draws cannot be; a level need not be finite."""
    tables, cautions = read_all(rows, schemas)
    for schema, table in tables.items():
        good = _countable(table, schema) if len(table) else pd.Series(dtype=bool)
        if not good.all():
            cautions.append(f"{schema}: left out {(~good).sum()} lines whose numbers cannot be, such as k below 1.")
            tables[schema] = table[good].reset_index(drop=True)
    return tables, cautions


def _countable(table: pd.DataFrame, schema: Schema) -> "pd.Series[bool]":
    numbers = schema.names("number")
    good = (table[[name for name in numbers if name != "level"]].abs() < math.inf).all(axis=1)
    return good & (table["k"] >= 1) & (table["k"] % 1 == 0) if "k" in numbers else good


def bounded(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which a number that is not finite is one that cannot be had, not a large one."""
    return table.replace([np.inf, -np.inf], np.nan)


def _reason(error: Exception) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or str(error)


def _parsed(text: str, schema: Schema) -> tuple[pd.DataFrame, list[str]]:
    """Good lines as numbers, words and truths, and what is wrong with the others.

    Raises: ValueError where columns are missing, csv.Error where it is no table.
    """
    head, *lines = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    lacking = [column.name for column in schema.columns if column.needed and column.name not in head]
    if lacking:
        raise ValueError(f"columns are missing: {', '.join(lacking)}")
    if len(set(head)) < len(head):
        raise ValueError("a column is there twice")
    whole = [line for line in lines if len(line) == len(head)]
    if not text.endswith("\n") and lines and len(lines[-1]) == len(head):
        whole.pop()
    good, broken = _typed(pd.DataFrame(whole, columns=head, dtype=str), schema)
    again = good.duplicated(list(schema.key))
    counts = {
        "not whole, as if it was still being written": len(lines) - len(whole),
        "with a word where a number belongs, or without what it is about": broken,
        "there twice; the first counts": int(again.sum()),
    }
    faults = [f"left out {n} of {len(lines)} lines, {what}" for what, n in counts.items() if n]
    return good[~again], faults if len(lines) or schema.may_be_empty else ["it holds no line"]


def _typed(cells: pd.DataFrame, schema: Schema) -> tuple[pd.DataFrame, int]:
    """Lines of which every cell can be read, and the number of the others."""
    words, truth_values, labels = (schema.names(each) for each in ("word", "truth", "label"))
    numeric = [name for name in cells if name not in (*words, *truth_values, *labels)]
    numbers = cells[numeric].apply(pd.to_numeric, errors="coerce").astype(float)
    bad = (numbers.isna() & ~cells[numeric].isin(["", "nan"])).any(axis=1) | (cells[words] == "").any(axis=1)
    bad |= numbers[schema.names("number")].isna().any(axis=1)
    truths = cells[truth_values].apply(lambda column: column.str.lower().map(_TRUTH))
    bad |= truths.isna().any(axis=1)
    typed = cells.assign(**numbers.mask(cells[numeric] == "nan", np.inf), **truths)
    good = typed[~bad].astype(dict.fromkeys(truth_values, bool))
    return good, int(bad.sum())


def of_runs(table: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Lines of some runs."""
    return table[table["run_id"].isin(list(runs))] if len(table) else table
