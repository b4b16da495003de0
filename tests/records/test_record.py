"""The run record: whole or not at all, recognised, strict JSON."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import CONFIG

from lit_degrade.errors import UserError
from lit_degrade.records import paths, tables
from lit_degrade.records.run_record import RunRecord


def test_record_appears_whole(tmp_path: Path) -> None:
    record = RunRecord("fit", CONFIG | {"results": str(tmp_path / "results")})
    assert record.finished() is None
    record.open()
    record.add(perplexity_post=float("inf"), nothing=float("nan"), fine=1.5)
    record.log(0, {"a": 1.0})
    record.log(0, {"b": 2.0})
    record.log(1, {"a": 3.0})
    record.save_tensors("x.safetensors", {"x": torch.arange(3)})
    assert not record.folder.exists()
    folder = record.close("done")
    assert {f.name for f in folder.iterdir()} == {
        paths.CONFIG, paths.MANIFEST, tables.COURSE.file, paths.SUMMARY, "x.safetensors",
    }  # fmt: skip
    summary = json.loads((folder / paths.SUMMARY).read_text(), parse_constant=pytest.fail)
    assert summary["perplexity_post"] == "inf"
    assert summary["nothing"] == "nan"
    assert summary["exit_state"] == "done"
    assert (folder / tables.COURSE).read_text().splitlines() == ["step,a,b", "0,1.0,2.0", "1,3.0,"]
    assert RunRecord("fit", CONFIG | {"results": str(tmp_path / "results")}).finished() == "done"
    assert list((tmp_path / "results" / "e").iterdir()) == [folder]


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    record = RunRecord("fit", CONFIG | {"results": str(tmp_path / "new" / "results")})
    record.open()
    record.save_text("a", "b")
    record.discard()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_results_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        RunRecord("fit", CONFIG | {"results": str(tmp_path / "file" / "results")}).open()


HOLD = """
import sys, time
from lit_degrade.records.run_record import RunRecord
record = RunRecord("fit", {"experiment": "e", "results": sys.argv[1]})
record.open()
record.save_text("half", "written")
print("open", flush=True)
sys.stdin.readline()
record.add(by="the first")
record.close("done")
"""


def test_a_killed_run_is_cleared_and_a_live_one_is_waited_for(tmp_path: Path) -> None:
    config = {"experiment": "e", "results": str(tmp_path)}

    def hold() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    killed = hold()
    killed.kill()
    killed.wait()
    live = hold()
    assert (live.poll(), len(list(tmp_path.glob("e/.*.partial")))) == (None, 1)
    threading.Timer(0.5, lambda: live.communicate("go on\n")).start()
    second = RunRecord("fit", config)
    assert second.finished() is None
    second.open()  # returns when the other has put its record in place
    assert second.finished() == "done"
    assert not (second.partial / "half").exists()
    second.discard()
    assert json.loads((second.folder / paths.SUMMARY).read_text())["by"] == "the first"
    assert [p.name for p in (tmp_path / "e").iterdir()] == [second.run_id]


def test_closing_again_replaces(tmp_path: Path) -> None:
    for value in (1, 2):
        record = RunRecord("fit", CONFIG | {"results": str(tmp_path)})
        record.open()
        record.add(value=value)
        folder = record.close("done")
    assert json.loads((folder / paths.SUMMARY).read_text())["value"] == 2


def test_a_journal_that_went_on_is_not_replaced_by_an_earlier_one(tmp_path: Path) -> None:
    """Interrupted, then gone on, then killed: what is kept is what the killed run had."""
    config = {"experiment": "e", "results": str(tmp_path)}
    first = RunRecord("predict", config)
    first.open("journal")
    first.save_text("journal", "one\n")
    first.close("interrupted")
    killed = RunRecord("predict", config)
    killed.open("journal")
    assert (killed.partial / "journal").read_text() == "one\n"
    killed.save_text("journal", "one\ntwo\n")
    killed._lock.release()  # as the end of its process does
    again = RunRecord("predict", config)
    again.open("journal")
    assert (again.partial / "journal").read_text() == "one\ntwo\n"
