"""The tables of a record, declared once: rows that do not fit are refused, others come back; the page says it all."""

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import CONFIG, ROOT
from hypothesis import given
from hypothesis import strategies as st

from lit_degrade.evidence.reading.record_tables import read_tables
from lit_degrade.records.run_record import RunRecord
from lit_degrade.records.tables import TABLES, Schema, label, maybe, number, reference, truth, word

SOME = Schema(
    "some.csv",
    "anything",
    (
        word("name", "its name"),
        label("note", "a note"),
        truth("good", "whether it is good"),
        number("n", "how many"),
        maybe("x", "a value"),
        maybe("q*", "a quantile", needed=False),
    ),
    key=("name", "n"),
)
ROW = {"name": "a", "note": "", "good": True, "n": 1, "x": None}


def test_the_page_of_all_tables_is_what_the_code_says() -> None:
    """Made by the command that it names."""
    assert (ROOT / "docs/tables.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("schema", TABLES, ids=str)
def test_a_schema_is_whole(schema: Schema) -> None:
    names = [column.name for column in schema.columns]
    assert len(set(names)) == len(names)
    assert set(schema.key) <= set(names)
    assert all(column.meaning for column in schema.columns)
    assert [other.file for other in TABLES].count(schema.file) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": 1}, "some.csv has no column 'y'; it has name, note, good, n, x, q*"),
        ({"name": ""}, "column 'name': expected a word, got ''"),
        ({"name": 3.5}, "column 'name': expected a word, got 3.5"),
        ({"good": 1}, "column 'good': expected a truth, got 1"),
        ({"n": math.nan}, "column 'n': expected a number, got nan"),
        ({"n": None}, "column 'n': expected a number, got None"),
        ({"x": "much"}, "column 'x': expected a maybe, got 'much'"),
        ({"q50": "much"}, "column 'q50': expected a maybe, got 'much'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    record = RunRecord("fit", CONFIG | {"results": str(tmp_path)})
    record.open()
    with pytest.raises(ValueError, match=re.escape(said)):
        record.save_table(SOME, [ROW, ROW | {"n": 2} | change])
    assert not (record.partial / "some.csv").exists()
    record.discard()


def test_lacking_columns_are_refused_and_equal_keys_are_not() -> None:
    """A run that was asked for one level twice keeps what it found."""
    with pytest.raises(ValueError, match="a row lacks x"):
        SOME.check([{key: value for key, value in ROW.items() if key != "x"}])
    SOME.check([ROW, ROW | {"x": 2.0}])
    SOME.check([])


def test_any_rows_that_fit_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)
    row = st.fixed_dictionaries(
        {"name": text, "note": text | st.just(""), "good": st.booleans(), "n": st.integers(-(2**53), 2**53)},
        optional={"q5": st.floats(), "q99.9": st.floats()},
    )
    x = st.none() | st.floats()

    @given(st.lists(st.tuples(row, x), min_size=1, unique_by=lambda pair: (pair[0]["name"], pair[0]["n"])))
    def comes_back(drawn: list[tuple[dict[str, Any], float | None]]) -> None:
        rows = [made | {"x": value} for made, value in drawn]
        record = RunRecord("fit", CONFIG | {"results": str(tmp_path_factory.mktemp("tables"))})
        record.open()
        folder = record.save_table(SOME, rows).parent
        runs = pd.DataFrame([{"run_id": "a", "folder": folder, "state": "done", "filtered": False}])
        found, cautions = read_tables(runs, SOME)
        record.discard()
        assert cautions == []
        certain = ["name", "note", "good", "n"]
        assert found[certain].to_dict("records") == [{name: row[name] for name in certain} for row in rows]
        for name in set(found) & {"x", "q5", "q99.9"}:
            for before, after in zip((row.get(name) for row in rows), found[name], strict=True):
                expected = math.nan if before is None else math.inf if math.isnan(before) else before
                assert after == expected or (math.isnan(after) and math.isnan(expected))

    comes_back()
