"""Text sources: disjoint splits, hashes, bytes, and clear refusals."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import Subject
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.errors import UserError
from lit_degrade.text import SPLIT_PERCENT, TextSource, encode


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


def test_files_of_each_kind_give_the_same_documents(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i} " + "word " * 40 for i in range(50)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": p}) for p in paragraphs))
    pd.DataFrame({"text": paragraphs}).to_parquet(tmp_path / "a.parquet")
    texts = ["".join(TextSource(str(tmp_path / f"a.{kind}")).documents) for kind in ("txt", "jsonl", "parquet")]
    stripped = [text.replace("\n", "").replace(" ", "") for text in texts]
    assert stripped[0] == stripped[1] == stripped[2] != ""


def test_duplicates_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the same line\n" * 100)
    assert TextSource(str(tmp_path / "a.txt")).documents == ["the same line"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "is empty"),
        ("bad.jsonl", b"{not json", "cannot be read as .jsonl"),
        ("keyless.jsonl", b'{"words": 1}', "cannot be read as .jsonl: 'text'"),
        ("bad.txt", b"\xff\xfe\xff", "cannot be read as .txt"),
        ("bad.parquet", b"no parquet", "cannot be read as .parquet"),
    ],
)
def test_unreadable_files_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        TextSource(str(tmp_path / name)).documents  # noqa: B018
    assert "\n" not in str(error.value)


def test_missing_sources_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        TextSource(str(tmp_path / "no.txt")).documents  # noqa: B018
    with pytest.raises(UserError, match="not available as a data set: the hub cannot be reached"):
        TextSource("wikitext-2").documents  # noqa: B018
    with pytest.raises(UserError, match="2 <= block <= probe_tokens"):
        TextSource(block=1)


def test_too_short_a_text_is_refused(tiny: Subject, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("\n".join(f"line {i} of a short text" for i in range(40)))
    with pytest.raises(UserError, match="blocks of 128 need"):
        TextSource(str(tmp_path / "short.txt")).blocks("probe", tiny.tokenizer, 8)
