"""Faults under load: kills between any two steps, broken records, full disks, locks not given back, a lost W&B server."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import QUICK, ROOT, manifest_of, summary_of
from loopback import Client, LoopbackServer

from lit_degrade.callbacks.write_record import WriteRecord
from lit_degrade.cli import main
from lit_degrade.errors import UserError, disk_full
from lit_degrade.evidence.reading.runs import HIDDEN, read_runs
from lit_degrade.records import lock, paths, tables, tracking
from lit_degrade.records.cache import Cache
from lit_degrade.records.conditions import ExitState
from lit_degrade.records.journal import Journal
from lit_degrade.records.lock import Lock, StillHeldError
from lit_degrade.records.run_record import RunRecord
from lit_degrade.records.tracking import WandbTracker, wandb_tracker

FIT = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), *QUICK[:2], *QUICK[-6:]]


def new(folder: Path, journal: str = "", **facts: int) -> RunRecord:
    """An open record."""
    record = RunRecord("fit", {"experiment": "e", "results": str(folder)})
    record.open(journal)
    record.add(**facts)
    return record


def recorded(folder: Path, value: int, state: ExitState = "done") -> RunRecord:
    record = new(folder, value=value)
    record.save_text("kept.txt", str(value))
    record.close(state)
    return record


def value_of(record: RunRecord) -> int:
    return summary_of(record.folder)["value"]


def killed(record: RunRecord) -> None:
    """Its lock goes with its process, and nothing else does."""
    os.close(record._lock._file)
    record._lock._file = -1
    os.environ.pop(lock.HELD)


def nothing_hidden(folder: Path) -> bool:
    return not [path for path in folder.rglob(".*") if path.name.endswith(HIDDEN)]


# --- kills ---


KILLED: dict[str, Callable[[RunRecord, RunRecord], None]] = {
    "while writing": lambda old, new: None,
    "before the first move": lambda old, new: shutil.copy(old.folder / paths.MANIFEST, new.partial),
    "between the moves": lambda old, new: old.folder.rename(new.replaced),
    "after the second move": lambda old, new: (old.folder.rename(new.replaced), new.partial.rename(new.folder)),
    "while the old one goes": lambda old, new: (
        old.folder.rename(new.replaced),
        (new.replaced / paths.MANIFEST).unlink(),
        new.partial.rename(new.folder),
    ),
    "and an older repeat too": lambda old, new: shutil.copytree(old.folder, new.replaced),
}  # fmt: skip


@pytest.mark.parametrize("when", KILLED)
@pytest.mark.parametrize("then", ["repeated", "refused"])
def test_a_repeat_that_was_killed_is_mended_by_the_next_start(when: str, then: str, tmp_path: Path) -> None:
    """One of the two records is in place at the next start, whole, and a repeat replaces it."""
    old = recorded(tmp_path, 1)
    repeat = new(tmp_path, value=2)
    source = recorded(tmp_path / "elsewhere", 2).folder
    shutil.rmtree(repeat.partial)
    shutil.copytree(source, repeat.partial)
    KILLED[when](old, repeat)
    killed(repeat)
    after = new(tmp_path, value=3)
    assert after.finished() == "done"
    assert value_of(after) == (2 if when in ("after the second move", "while the old one goes") else 1)
    if then == "refused":
        after.discard()
    else:
        after.close("done")
        assert value_of(after) == 3
    assert os.listdir(tmp_path / "e") == [after.run_id]


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_repeat_that_fails_loses_nothing(state: ExitState, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ended in ("done", "diverged"):
        old = recorded(tmp_path / ended, 1, ended)
        repeat = new(tmp_path / ended, value=2)
        assert repeat.close(state) == old.folder
        assert (old.finished(), value_of(old)) == (ended, 1)
        assert "the earlier record stays as it was" in capsys.readouterr().err
        assert nothing_hidden(tmp_path)
    unfinished = recorded(tmp_path / "failed", 1, "failed")
    new(tmp_path / "failed", value=2).close(state)
    assert (unfinished.finished(), value_of(unfinished)) == (state, 2)


@pytest.mark.parametrize("name", ["subject", "a/b.txt", "c.csv"])
def test_what_a_write_has_begun_goes_when_it_fails(name: str, tmp_path: Path) -> None:
    record = new(tmp_path)

    def write(path: Path) -> None:
        if name == "subject":
            path.mkdir()
            path = path / "half"
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), record.whole(name) as path:
        write(path)
    assert not [path for path in record.partial.rglob("*") if path.is_file() or path.name == "subject"]
    record.discard()


# --- broken records ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut manifest": (lambda folder: cut(folder / paths.MANIFEST), "manifest.json is not JSON"),
    "empty manifest": (lambda folder: (folder / paths.MANIFEST).write_text(""), "manifest.json is not JSON"),
    "zeros": (lambda folder: (folder / paths.MANIFEST).write_bytes(bytes(500)), "manifest.json is not JSON"),
    "no text": (lambda folder: (folder / paths.MANIFEST).write_bytes(b"\xff\xfe{}"), "manifest.json is not JSON"),
    "a list": (lambda folder: (folder / paths.MANIFEST).write_text("[]"), "manifest.json: expected an object, found list"),
    "no state": (lambda folder: (folder / paths.MANIFEST).write_text(f'{{"run_id": "{folder.name}"}}'), "exit state None"),
    "no manifest": (lambda folder: (folder / paths.MANIFEST).unlink(), "manifest.json: No such file"),
    "cut summary": (lambda folder: cut(folder / paths.SUMMARY), "summary.json is not JSON"),
    "empty config": (lambda folder: (folder / paths.CONFIG).write_text(""), "config.yaml: expected keys, found NoneType"),
    "another run's": (lambda folder: folder.rename(folder.with_name("x")).rename(folder) and _rename(folder), "run id 'x'"),
}


def _rename(folder: Path) -> None:
    manifest = folder / paths.MANIFEST
    manifest.write_text(manifest.read_text().replace(folder.name, "x"))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_named_and_made_again(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    breaks, message = BROKEN[case]
    other = RunRecord("test", {"experiment": "e", "results": str(tmp_path)})
    other.open()
    other.close("done")
    broken = recorded(tmp_path, 1)
    breaks(broken.folder)
    assert broken.finished() == "broken"
    assert [defect.kind for defect in read_runs([tmp_path]).defects] == ["corrupt"]
    again = new(tmp_path, value=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(broken.folder) in err
    assert message in err
    assert (broken.folder / "kept.txt").exists(), "it stays until there is another"
    again.close("done")
    assert (again.finished(), value_of(again)) == ("done", 2)
    assert manifest_of(again.folder)["cautions"][0] in err
    assert nothing_hidden(tmp_path)


def test_a_cache_entry_that_was_cut_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1.0)
    cache.remember("thing", {}, lambda: ({"x": torch.ones(100)}, None))
    (entry,) = tmp_path.glob("*.safetensors")
    for content in (entry.read_bytes()[:200], b""):
        entry.write_bytes(content)
        (tensors, _), kept = cache.remember("thing", {}, lambda: ({"x": torch.ones(100)}, None))
        assert (kept, float(tensors["x"].sum())) == (False, 100)
        assert cache.remember("thing", {}, lambda: ({}, None))[1]
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]


# --- full disks ---


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may become larger: what a full disk does, for users who may not make one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE_TABLE = tables.Schema("large.csv", "a number", (tables.number("x", "a number"),), key=("x",))
LARGE: dict[str, Callable[[RunRecord], Any]] = {
    "text": lambda record: record.save_text("large.txt", "x" * 100_000),
    "table": lambda record: record.save_table(LARGE_TABLE, [{"x": i} for i in range(50_000)]),
    "tensors": lambda record: record.save_tensors("large.safetensors", {"x": torch.zeros(100_000)}),
    "journal": lambda record: Journal(record.partial / "journal").append({"x": "x" * 100_000}),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_full_disk_leaves_nothing_half_written(what: str, tmp_path: Path) -> None:
    record = new(tmp_path, "journal")
    Journal(record.partial / "journal").append({"x": 1})
    with files_up_to(20_000), pytest.raises(Exception, match=r"File too large|os error 27") as full:
        LARGE[what](record)
    assert disk_full(full.value)
    record.close("failed", str(full.value))
    assert record.finished() == "failed"
    assert not list(record.folder.glob("*large*"))
    again = new(tmp_path, "journal")
    assert Journal(again.partial / "journal").entries == [{"x": 1}], "work that was done is not lost"
    again.discard()


@pytest.mark.parametrize(("limit", "state"), [(20_000, "failed"), (10, None)])
def test_a_disk_that_is_full_at_the_end_is_said_in_a_small_record(limit: int, state: str | None, tmp_path: Path) -> None:
    record = new(tmp_path)
    for step in range(5000):
        record.log(step, {"loss": 1.0})
    with files_up_to(limit), pytest.raises(OSError, match="File too large"):
        record.close("done")
    assert record.finished() == state
    assert nothing_hidden(tmp_path)
    assert state is None or sorted(os.listdir(record.folder)) == sorted(
        [paths.CONFIG, paths.MANIFEST, tables.COURSE.file, paths.SUMMARY]
    )


def test_a_full_disk_at_the_end_of_a_repeat_keeps_the_record(tmp_path: Path) -> None:
    old, repeat = recorded(tmp_path, 1), new(tmp_path, value=2)
    with files_up_to(10), pytest.raises(OSError, match="File too large"):
        repeat.close("done")
    assert (old.finished(), value_of(old)) == ("done", 1)
    assert nothing_hidden(tmp_path)


def test_a_cache_on_a_full_disk_keeps_nothing_and_harms_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_up_to(1000):
        (tensors, _), kept = Cache(tmp_path, 1.0).remember("thing", {}, lambda: ({"x": torch.ones(1000)}, None))
    assert (kept, float(tensors["x"].sum())) == (False, 1000)
    assert "the disk is full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_subject_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with files_up_to(60_000):
        assert main([*FIT, "--results", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("lit_degrade: the disk is full (")
    assert err.count("\n") == 1
    (folder,) = (path.parent for path in tmp_path.glob(f"*/[!.]*/{paths.MANIFEST}"))
    assert manifest_of(folder)["exit_state"] == "failed"
    assert "os error 27" in manifest_of(folder)["detail"]
    assert not (folder / paths.SUBJECT).exists()
    assert nothing_hidden(tmp_path)
    assert main([*FIT, "--results", str(tmp_path)]) == 0
    assert (manifest_of(folder)["exit_state"], (folder / paths.SUBJECT).is_dir()) == ("done", True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["150k", "400k", "16k"])
@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_file_system_that_is_too_small(size: str, mode: str, tmp_path: Path) -> None:
    """16k has no room for a record at all."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], capture_output=True, check=False
    ).returncode:
        pytest.skip("this needs the right to mount a file system")
    try:
        environment = {**os.environ, "WANDB_MODE": mode}
        command = [sys.executable, "-m", "lit_degrade", *FIT, "--results", str(tmp_path), "--subject", "tiny-60k"]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        records = [path.parent for path in tmp_path.glob(f"*/[!.]*/{paths.MANIFEST}")]
        states = [manifest_of(folder)["exit_state"] for folder in records]
        assert "Traceback" not in run.stderr
        if run.returncode == 0:  # 400 kB are enough for the record, but not for W&B's copies too
            assert (size, states) == ("400k", ["done"])
        else:
            assert run.returncode == 1
            assert next(line for line in run.stderr.splitlines() if "caution" not in line).startswith(
                "lit_degrade: the disk is full ("
            )
            assert states == ([] if size == "16k" else ["failed"])
            assert not list(tmp_path.glob(f"*/*/{paths.SUBJECT}"))
        assert nothing_hidden(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- locks ---

HOLD = """
import sys, time
from pathlib import Path
from lit_degrade.records.lock import Lock
lock = Lock(Path(sys.argv[1]), "run x")
lock.take()
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_holder_that_stopped_is_named_and_not_waited_for_for_ever(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    holder.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(lock, "WAIT_S", 0.6)
    monkeypatch.setattr(lock, "SAY_S", 0.3)
    monkeypatch.setattr(lock, "POLL_S", 0.05)
    with pytest.raises(StillHeldError, match=f"still being written by process {holder.pid} on "):
        Lock(tmp_path / "x.lock", "run x").take()
    said = capsys.readouterr().err.splitlines()
    assert 2 <= len(said) <= 3
    assert f"run x is being written by process {holder.pid} on " in said[0]
    holder.kill()
    holder.wait()
    free = Lock(tmp_path / "x.lock", "run x")
    free.take()  # what a killed process has left does not hold
    free.release()
    assert not (tmp_path / "x.lock").exists()


def test_a_lock_is_given_on(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    threading.Timer(0.3, lambda: holder.communicate("\n")).start()
    mine = Lock(tmp_path / "x.lock", "run x")
    mine.take()
    assert mine.path.read_text().startswith(f"process {os.getpid()} on ")
    mine.release()


START = """
import subprocess, sys
from pathlib import Path
from lit_degrade.records.lock import Lock, StillHeldError
lock = Lock(Path(sys.argv[1]), "run x")
try:
    lock.take()
except StillHeldError as error:
    sys.exit(str(error))
if len(sys.argv) > 2:
    child = [sys.executable, "-c", sys.argv[2], sys.argv[1], *sys.argv[3:]]
    print(subprocess.run(child, capture_output=True, text=True).stderr)
"""
INDIRECTLY = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2], sys.argv[1]])"


@pytest.mark.parametrize("children", [[START], [INDIRECTLY, START]])
def test_a_process_does_not_wait_for_the_one_that_started_it(children: list[str], tmp_path: Path) -> None:
    """As a launcher of several processes on one run does."""
    command = [sys.executable, "-c", START, str(tmp_path / "x.lock"), *children]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "run x is being written by this process, or by one that has started it"
    assert (run.returncode, run.stderr) == (0, "")


def test_two_records_of_one_run_in_a_process_are_refused(tmp_path: Path) -> None:
    first = new(tmp_path)
    with pytest.raises(UserError, match=f"run {first.run_id} is being written by this process"):
        new(tmp_path)
    first.close("done")
    new(tmp_path).discard()


def test_a_cache_entry_that_is_not_given_back_is_computed(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    monkeypatch.setattr(Lock, "_taken", lambda self: False)
    (tensors, _), kept = Cache(tmp_path, 1.0).remember("thing", {}, lambda: ({"x": torch.ones(10)}, None))
    assert (kept, float(tensors["x"].sum())) == (False, 10)


# --- W&B ---


class FakeRun:
    """A client that fails, or hangs, at some of its calls."""

    path, offline = "e/p/x", False

    def __init__(self, fails: str, hang: bool = False) -> None:
        self.settings = SimpleNamespace(sync_dir="/w/run-x", finish_timeout=0.0)
        self.fails, self.hang, self.calls = fails, hang, list[str]()
        self.summary = SimpleNamespace(update=lambda facts: self._call("summary"))

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            if self.hang:
                time.sleep(60)
            raise ConnectionError("server\nis gone")

    def log(self, row: object) -> None:
        self._call("log")

    def log_artifact(self, artifact: object) -> None:
        self._call("artifact")

    def finish(self, exit_code: int) -> None:
        self._call("finish")


@pytest.mark.parametrize("hang", [False, True])
@pytest.mark.parametrize("fails", ["log", "artifact", "summary", "finish"])
def test_the_record_does_not_depend_on_wandb(
    fails: str, hang: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb  # noqa: F401 (its first import takes longer than the calls below are waited for)

    monkeypatch.setattr(tracking, "ANSWER_S", 0.5 if hang else 30.0)
    record, run = new(tmp_path, value=1), FakeRun(fails, hang)
    tracker = WandbTracker(record, run)
    tracker.log_metrics({"loss": 1.0}, 3)
    tracker.log_metrics({"loss": 1.0}, 4)
    record.save_text("a.txt", "a")
    tracker.log_artifact("a.txt", "a", "text", {})
    tracker.log_artifact("a.txt", "b", "text", {})
    tracker.log_artifact("none.txt", "c", "text", {})
    trainer = SimpleNamespace(loggers=[tracker])
    started = time.monotonic()
    WriteRecord(record).teardown(trainer, None, "fit")  # type: ignore[arg-type]
    assert time.monotonic() - started < 5
    manifest = manifest_of(record.folder)
    assert (manifest["exit_state"], manifest["wandb"]["mode"]) == ("done", "online")
    (caution,) = manifest["cautions"]
    assert ("no answer within 0.5 s" if hang else "ConnectionError: server is gone") in caution
    assert capsys.readouterr().err == f"lit_degrade: caution: {caution}\n"
    before = {"log": ["log"], "artifact": ["log", "log", "artifact"]}.get(fails, ["log", "log", "artifact", "artifact"])
    assert run.calls == [*before, "summary", *([] if fails == "summary" else ["finish"])]
    assert nothing_hidden(tmp_path)


@pytest.mark.parametrize(("fails", "expected"), [(["online"], "offline"), (["online", "offline"], None)])
def test_a_run_goes_on_where_wandb_cannot_start(
    fails: list[str], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(record: RunRecord, mode: str) -> FakeRun:
        if mode in fails:
            raise OSError("cannot be reached")
        run = FakeRun("")
        run.offline = mode == "offline"
        return run

    monkeypatch.setattr(tracking, "_start", start)
    record = new(tmp_path)
    tracker = wandb_tracker(record, "online")
    manifest = manifest_of(record.close("done"))
    assert (tracker is None) == (expected is None)
    assert manifest.get("wandb", {}).get("mode") == expected
    assert [caution.split(":")[0] for caution in manifest["cautions"]] == [f"W&B cannot run {mode}" for mode in fails]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "stalled", "mute"])
def test_a_server_that_is_lost_in_the_middle(fault: str, tmp_path: Path) -> None:
    """Killed or silent from the start of training on, or silent from the very beginning: the record is done all the same."""
    with LoopbackServer(tmp_path / "server") as server:
        limits = {"WANDB_FINISH_TIMEOUT": "5", "WANDB_INIT_TIMEOUT": "5"}
        (tmp_path / "home").mkdir()
        client = Client(server, ROOT)
        own = {
            "PATH": client.environment["PATH"],
            "HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        client.environment = {**own, "PYTHONPATH": str(ROOT), **server.environment(), **limits}
        if fault == "mute":
            server.lock.acquire()
        process = client.start(sys.executable, "-m", "lit_degrade", *FIT, "--results", str(tmp_path / "r"))
        while fault != "mute" and not server.runs:
            assert process.poll() is None
            time.sleep(0.02)
        if fault == "stalled":
            server.lock.acquire()
        if fault == "killed":
            server.shutdown()
            server.server_close()
        output, _ = process.communicate(timeout=300)
        (folder,) = (path.parent for path in tmp_path.glob(f"r/*/[!.]*/{paths.MANIFEST}"))
        manifest = manifest_of(folder)
        assert (process.returncode, manifest["exit_state"]) == (0, "done"), output
        assert manifest["wandb"]["mode"] == ("offline" if fault == "mute" else "online")
        assert manifest["cautions"]
        assert output.count("lit_degrade: caution: W&B") == len(manifest["cautions"])
        assert (folder / paths.SUBJECT).is_dir()
        if fault != "killed":
            server.lock.release()
