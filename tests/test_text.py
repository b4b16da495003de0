"""Text sources: disjoint splits, hashes, bytes, and clear refusals."""

import csv
import io
import json
import random
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest
import torch
from conftest import Subject
from helpers import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.inputs import encoding_of
from lit_degrade.text import DOCUMENT_CHARS, SPLIT_PERCENT, TextSource, encode


def test_splits_are_disjoint_and_complete(text: TextSource) -> None:
    parts = {split: text.split(split) for split in SPLIT_PERCENT}
    together = [d for part in parts.values() for d in part]
    assert sorted(together) == sorted(text.documents)
    assert len(set(together)) == len(together)
    assert all(parts.values())


def test_the_embedded_probe_is_large_enough_and_hashed(tiny: Subject, text: TextSource) -> None:
    assert len(text.tokens("probe", tiny.tokenizer).ids) >= 50_000
    assert text.sha256 == TextSource().sha256
    assert len(text.sha256) == 64


@given(st.lists(st.text(alphabet="aé日🙂 \n", max_size=12), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_bytes_of_tokens_add_up_to_the_text(tiny_documents: list[str]) -> None:
    from transformers import AutoTokenizer

    from lit_degrade.subjects.catalog import EMBEDDED_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "tiny-60k")
    stream = encode(tiny_documents, tokenizer)
    assert int(stream.byte_counts.sum()) == sum(len(d.encode()) for d in tiny_documents)
    assert int((stream.ids == tokenizer.eos_token_id).sum()) == len(tiny_documents)


PARAGRAPHS = [f'{i}, "quoted", größer and 日本 ' + f"word{i} " * 340 for i in range(60)]
"""Each longer than half a document, so that lines of a .txt file are not packed together."""
RECORDS = [{"id": i, "text": text} for i, text in enumerate(PARAGRAPHS)]
LINES = "\n".join(map(json.dumps, RECORDS))
TABLE = pd.DataFrame(RECORDS)


def _utf8(text: str) -> bytes:
    return text.encode()


KINDS = {
    "plain.txt": _utf8("\n".join(PARAGRAPHS)),
    "apart.txt": _utf8("\n\n  \n".join(PARAGRAPHS)),
    "crlf.txt": _utf8("\r\n".join(PARAGRAPHS)),
    "old_mac.TXT": _utf8("\r".join(PARAGRAPHS)),
    "bom.txt": _utf8("\ufeff" + "\n".join(PARAGRAPHS)),
    "utf16.txt": "\r\n".join(PARAGRAPHS).encode("utf-16"),
    "utf16be.txt": b"\xfe\xff" + "\n".join(PARAGRAPHS).encode("utf-16-be"),
    "utf32.txt": "\n".join(PARAGRAPHS).encode("utf-32"),
    "lines.jsonl": _utf8(LINES),
    "lines.ndjson": _utf8(LINES.replace("\n", "\r\n\r\n")),
    "lines.json": _utf8("\n\n" + LINES + "\n"),
    "upper.JSONL": _utf8("\ufeff" + LINES),
    "strings.jsonl": _utf8("\n".join(json.dumps(text, ensure_ascii=False) for text in PARAGRAPHS)),
    "array.json": _utf8("\ufeff \n" + json.dumps(RECORDS, indent=1)),
    "strings.json": json.dumps(PARAGRAPHS, ensure_ascii=False).encode("utf-16"),
    "table.csv": _utf8(TABLE.to_csv(index=False)),
    "crlf.CSV": _utf8("\ufeff" + TABLE.to_csv(index=False, lineterminator="\r\n")),
    "text_only.csv": _utf8(TABLE[["text"]].to_csv(index=False)),
    "table.parquet": TABLE.to_parquet(),
    "categories.parquet": TABLE.astype({"text": "category"}).to_parquet(),
}


def _documents(path: Path) -> list[str]:
    return TextSource(str(path)).documents


@pytest.mark.parametrize("name", KINDS)
def test_files_of_each_kind_give_the_same_documents(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(KINDS[name])
    assert _documents(tmp_path / name) == PARAGRAPHS


def test_a_text_is_the_same_tokens_in_every_kind(tmp_path: Path, tiny: Subject) -> None:
    """And so it has the same bits per byte."""
    streams = []
    for name in ("crlf.txt", "lines.json", "array.json", "crlf.CSV", "table.parquet"):
        (tmp_path / name).write_bytes(KINDS[name])
        streams.append(TextSource(str(tmp_path / name)).blocks("probe", tiny.tokenizer, 8))
    for stream in streams[1:]:
        assert torch.equal(stream.ids, streams[0].ids)
        assert torch.equal(stream.byte_counts, streams[0].byte_counts)


def test_cells_and_strings_may_have_several_lines(tmp_path: Path) -> None:
    texts = ['one\n\ntwo, "three"', "four\nfive", "x" * 200_000]
    pd.DataFrame({"text": [texts[0], "", *texts[1:]], "n": 1}).to_csv(tmp_path / "a.csv", index=False, lineterminator="\r\n")
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in [texts[0], " ", *texts]]))
    assert _documents(tmp_path / "a.csv")[:2] == _documents(tmp_path / "a.json")[:2] == texts[:2]
    assert "".join(_documents(tmp_path / "a.csv")[2:]) == texts[2]


def test_duplicates_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the same line\n" * 100)
    assert TextSource(str(tmp_path / "a.txt")).documents == ["the same line"]


GOOD = b'{"text": "a"}\n' * 700
HEAD = b'id,text\r\n1,a\r\n\r\n2,"b\r\nb"\r\n'
BROKEN = {
    "empty.txt": (b"\n \n", "is empty: expected at least one paragraph"),
    "nothing.csv": (b"", "is empty"),
    "header.csv": (b"text\n", "is empty"),
    "nothing.json": (b"[]", "is empty"),
    "cut.txt": (b"\xff\xfe\xff", "cannot be read as .txt: line 1: expected UTF-16"),
    "half.txt": (b"\xff\xfea\0\n\0\0\xd8b\0", "cannot be read as .txt: line 2: expected UTF-16"),
    "latin.txt": (b"one\r\ntwo\r\ncaf\xe9", "cannot be read as .txt: line 3: expected UTF-8, found bytes that are none"),
    "mac.txt": (b"one\rtwo\rcaf\xe9", "line 3: expected UTF-8"),
    "markless.txt": (
        "no mark".encode("utf-16-le"),
        "line 1: expected UTF-8, or UTF-16 with a byte-order mark, found a NUL byte",
    ),
    "bad.jsonl": (b"{not json", "cannot be read as .jsonl: line 1, column 2: expected a whole record in JSON, found none"),
    "cut.jsonl": (GOOD + b'{"text": "a', "line 701, column 10: expected a whole record in JSON"),
    "two.jsonl": (b'{"text": "a"} {"text": "b"}', "line 1, column 15: expected a whole record in JSON"),
    "null.jsonl": (GOOD + b'{"text": null}', "line 701: expected text in field 'text', found null"),
    "number.jsonl": (GOOD + b'{"text": 42}', "line 701: expected text in field 'text', found a number"),
    "nan.jsonl": (b'{"text": NaN}', "line 1: expected text in field 'text', found a number"),
    "bool.NDJSON": (b'\n\n{"text": true}', "read as .ndjson: line 3: expected text in field 'text', found true or false"),
    "list.jsonl": (b'{"text": ["a"]}', "line 1: expected text in field 'text', found a list"),
    "row.jsonl": (b'["text"]', "line 1: expected text in field 'text', found a list"),
    "object.jsonl": (b'{"text": {"text": "a"}}', "line 1: expected text in field 'text', found an object"),
    "missing.jsonl": (GOOD + b'{"txt": "x"}', "line 701: expected text in field 'text', found the fields 'txt'"),
    "keyless.jsonl": (b"{}", "line 1: expected text in field 'text', found no field"),
    "latin.jsonl": (GOOD + b'{"text": "\xe9"}', "line 701: expected UTF-8, found bytes that are none"),
    "surrogate.jsonl": (b'{"text": "\\ud83d"}', "line 1: expected text in field 'text', found half a surrogate pair in it"),
    "deep.jsonl": (b"[" * 100_000, "line 1: "),
    "long.jsonl": (b"1" * 5_000, "line 1: "),
    "null.json": (b'[\n"a",\n{"text": null}]', "entry 2 of the array (from 1): expected text in field 'text', found null"),
    "cut.json": (b'[{"text": "a"},\n{"text": "b"', "line 2, column 13: expected a whole array in JSON, found none"),
    "columns.json": (b'{"text": {"0": "a"}}', "line 1: expected text in field 'text', found an object"),
    "pretty.json": (
        b'{\n"text": "a"\n}',
        "cannot be read as .json: line 1, column 2: expected a whole record in JSON, found none",
    ),
    "columns.csv": (b"a;text\n1;b\n", "line 1: expected one column 'text', found the columns 'a;text'"),
    "many.csv": (b"a,b,c,d,e,f,g,h,i\n", "found the columns 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and others"),
    "twice.csv": (b"text,text\na,b\n", "line 1: expected one column 'text', found the columns 'text', 'text'"),
    "fields.csv": (HEAD + b"3,c,d", "line 6: expected 2 fields, as there are columns, found 3"),
    "few.csv": (HEAD + b'"3\n\n"', "line 6: expected 2 fields, as there are columns, found 1"),
    "open.csv": (HEAD + b'3,"c\r\n4,d\r\n5,e\r\n', "line 6: unexpected end of data"),
    "quotes.csv": (HEAD + b'3,"c"d"', "line 6: ',' expected after '\"'"),
    "nul.csv": (HEAD + b"3,a\0b\n", "line 6: expected UTF-8, or UTF-16 with a byte-order mark, found a NUL byte"),
    "latin.csv": (HEAD + b"3,caf\xe9\n", "line 6: expected UTF-8"),
    "bad.parquet": (b"no parquet", "cannot be read as .parquet: "),
    "cut.parquet": (TABLE.to_parquet()[:-100], "cannot be read as .parquet: "),
    "names.parquet": (
        pd.DataFrame({"a": [1], "txt": ["b"]}).to_parquet(),
        "expected one column 'text', found the columns 'a', 'txt'",
    ),
    "null.parquet": (
        pd.DataFrame({"text": ["a", None]}).to_parquet(),
        "row 2 (from 1): expected text in field 'text', found null",
    ),
    "number.parquet": (
        pd.DataFrame({"text": [1.5]}).to_parquet(),
        "row 1 (from 1): expected text in field 'text', found a number",
    ),
    "bytes.parquet": (
        pd.DataFrame({"text": [b"a"]}).to_parquet(),
        "row 1 (from 1): expected text in field 'text', found bytes",
    ),
    "struct.parquet": (pd.DataFrame({"text": [{"text": "a"}]}).to_parquet(), "expected text in field 'text', found an object"),
    "notes.md": (b"text", "is of kind '.md'. Available: .txt, .jsonl, .ndjson, .json, .csv, .parquet."),
    "pages.jsonl.gz": (b"text", "is of kind '.gz'. Available: .txt"),
    "NOTES": (b"text", "has no suffix, which would name its kind. Available: .txt"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unreadable_files_are_one_line(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        _documents(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_bytes_that_are_no_text_are_named_by_their_row(tmp_path: Path) -> None:
    broken = pyarrow.StringArray.from_buffers(2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xe9"))
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 2 \(from 1\): expected UTF-8"):
        _documents(tmp_path / "a.parquet")


def test_a_broken_text_ends_a_run_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "null.jsonl").write_bytes(BROKEN["null.jsonl"][0])
    config = str(ROOT / "configs/evaluate.yaml")
    args = ["--config", config, "--subject", "tiny-60k", "--text.source", str(tmp_path / "null.jsonl")]
    assert main(["test", *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"lit_degrade: Text file '{tmp_path}/null.jsonl' cannot be read as .jsonl: line 701: "
        "expected text in field 'text', found null.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["null.jsonl"]


def _read(folder: Path, name: str, content: bytes) -> list[str] | None:
    """Documents of a file, or None where one line says what is wrong with it."""
    path = folder / name
    path.write_bytes(content)
    try:
        return _documents(path)
    except UserError as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", "é"]), children, max_size=3)
    ),
    max_leaves=6,
)


def _expected(records: list[object]) -> list[str] | None:
    """What records stand for: texts in order, each once, without blank ones; None where one record is none."""
    values = [record.get("text") if isinstance(record, dict) else record for record in records]
    if not all(isinstance(value, str) and value.encode(errors="replace").decode() == value for value in values):
        return None
    return list(dict.fromkeys(value for value in values if value.strip())) or None


@given(st.lists(st.text(), max_size=4), JSON, st.integers(0, 4), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_a_text_or_one_line(tmp_path: Path, texts: list[str], odd: object, place: int, raw: bool) -> None:
    records: list[object] = [{"id": i, "text": text} for i, text in enumerate(texts)]
    records.insert(place, odd)
    lines = [json.dumps(record) for record in records]
    if raw and all(line.encode(errors="replace").decode() == line for line in map(str, records)):
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
    expected = _expected(records)
    assert _read(tmp_path, "a.jsonl", "\n".join(lines).encode()) == expected
    assert _read(tmp_path, "a.json", f"[{', '.join(lines)}]".encode("utf-8-sig")) == expected


@given(st.sampled_from(["a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet"]), st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_text_or_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    documents = _read(tmp_path, name, content)
    if documents and name == "a.txt":
        lines = content.decode(encoding_of(content)).splitlines()
        assert documents == ["\n\n".join(dict.fromkeys(line for line in lines if line.strip()))]


@given(st.integers(4, 10_000), st.binary(min_size=1, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_parquet_is_a_text_or_one_line(tmp_path: Path, place: int, damage: bytes) -> None:
    whole = bytearray(SMALL_PARQUET)
    place %= len(whole)
    whole[place : place + len(damage)] = damage
    _read(tmp_path, "a.parquet", bytes(whole))


SMALL_PARQUET = pd.DataFrame({"text": ["one text", "another text", "and one more"], "n": [1, 2, 3]}).to_parquet()
CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_a_text_or_one_line(tmp_path: Path, rows: list[list[str]], end: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([["id", "text"], *rows])
    texts = [re.sub("\r\n?", "\n", row[1]) for row in rows if len(row) == 2]
    expected = list(dict.fromkeys(text for text in texts if text.strip())) if len(texts) == len(rows) else None
    assert _read(tmp_path, "a.csv", out.getvalue().encode()) == (expected or None)


def test_missing_sources_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for name in ("no.txt", "no/such/file", "no.md", "texts/no.md", "~/no", "./no", "no.JSONL", "a:b", "\0"):
        with pytest.raises(UserError, match="does not exist or is not a file"):
            TextSource(name).documents  # noqa: B018
    with pytest.raises(UserError, match="'texts' is a folder: expected a file"):
        TextSource("texts").documents  # noqa: B018
    for name in ("wikitext-2", "someone/some-data_v1.1"):
        with pytest.raises(UserError, match="not available as a data set: the hub cannot be reached"):
            TextSource(name).documents  # noqa: B018
    with pytest.raises(UserError, match=r"text\.block: expected a whole number from 2, not 1"):
        TextSource(block=1)


def test_a_file_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("a text")
    assert TextSource("~/a.txt").documents == ["a text"]


def test_too_short_a_text_is_refused(tiny: Subject, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("\n".join(f"line {i} of a short text" for i in range(40)))
    with pytest.raises(UserError, match=r"has 0 tokens in this split \(probe\); 8 blocks of 128 need 1024"):
        TextSource(str(tmp_path / "short.txt")).blocks("probe", tiny.tokenizer, 8)


LONG = " ".join(f"Item {i} has the value {i * i % 977}." for i in range(20_000))
LONG_TEXTS = {
    "one line": [LONG],
    "three lines": [LONG[:200_000], LONG[200_000:300_000], LONG[300_000:]],
    "ten lines": [LONG[i : i + 40_000] for i in range(0, 400_000, 40_000)],
    "no white space": [LONG.replace(" ", "")],
    "Chinese": ["".join(map(chr, random.Random(0).choices(range(0x4E00, 0x9FA5), k=400_000)))],
    "wide spaces": [LONG.replace(" ", " \t\u3000 ")],
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_lines_are_a_text_like_any_other(tmp_path: Path, name: str) -> None:
    paragraphs = LONG_TEXTS[name]
    (tmp_path / "a.txt").write_text("\n".join(paragraphs), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, paragraphs)))
    source = TextSource(str(tmp_path / "a.txt"))
    assert all(source.split(split) for split in SPLIT_PERCENT)
    lengths = [len(document) for document in source.documents]
    assert max(lengths) <= DOCUMENT_CHARS + len("\n\n")
    assert sum(length < DOCUMENT_CHARS - 100 for length in lengths) <= len(paragraphs)
    joint = " " if " " in LONG_TEXTS[name][0] else ""
    assert "".join(joint.join(source.documents).split()) == "".join("".join(paragraphs).split())
    if len(paragraphs) == 1:
        assert _documents(tmp_path / "a.jsonl") == source.documents
        assert joint.join(source.documents).split() == paragraphs[0].split(), "no word is cut"


def test_one_long_line_is_measured(tmp_path: Path, tiny: Subject) -> None:
    (tmp_path / "a.txt").write_text(LONG[:130_000])
    assert TextSource(str(tmp_path / "a.txt")).blocks("probe", tiny.tokenizer, 16).ids.shape == (16, 128)


@given(st.lists(st.integers(1, 3 * DOCUMENT_CHARS), min_size=1, max_size=80))
@example([DOCUMENT_CHARS + 1] + [200] * 40)
@example([3 * DOCUMENT_CHARS] * 60)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_stays_whole_unless_that_leaves_a_split_empty(tmp_path: Path, lengths: list[int]) -> None:
    paragraphs = [(f"{i} " * length)[:length].strip() or "x" for i, length in enumerate(lengths)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, paragraphs)))
    source = TextSource(str(tmp_path / "a.jsonl"))
    whole = list(dict.fromkeys(paragraphs))
    if source.documents == whole:
        return
    source.documents, cut = whole, source.documents
    before = {split for split in SPLIT_PERCENT if source.split(split)}
    source.documents = cut
    after = {split for split in SPLIT_PERCENT if source.split(split)}
    assert before < after
    assert set(whole) - set(cut) == {text for text in whole if len(text) > DOCUMENT_CHARS}
