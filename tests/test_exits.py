"""Errors to exit codes: expected ones are one line, all others keep their traceback; signals end a run in order."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, manifest_of
from safetensors import SafetensorError

from lit_degrade.cli import main
from lit_degrade.errors import Diverged, OutOfMemory, UserError
from lit_degrade.exits import Terminated, exit_code, undisturbed
from lit_degrade.modules.evaluate import EvaluateModule
from lit_degrade.records import paths

EVALUATE = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048"]


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], int]:
    def verb() -> int:
        raise error from cause

    return verb


def exits_in(error: BaseException) -> Callable[[], int]:
    """As Lightning does it with Ctrl-C, and rich with a closed pipe."""

    def verb() -> int:
        try:
            raise error
        except BaseException:
            sys.exit(1)

    return verb


FULL = OSError(errno.ENOSPC, "No space left on device")
EXPECTED = {
    "bad input": (raising(UserError("no such thing")), 2, "no such thing"),
    "memory": (raising(OutOfMemory("out of memory. Buy more")), 1, "out of memory. Buy more"),
    "diverged": (raising(Diverged(3, "loss")), 3, "diverged: loss became non-finite at step 3"),
    "Ctrl-C": (raising(KeyboardInterrupt()), 130, "interrupted"),
    "Ctrl-C in Lightning": (exits_in(KeyboardInterrupt()), 130, "interrupted"),
    "signal": (raising(Terminated(143)), 143, "ended by a signal"),
    "full disk": (raising(FULL), 1, "the disk is full ([Errno 28] No space left on device)"),
    "quota": (raising(OSError(errno.EDQUOT, "Disk quota exceeded", "a.json")), 1, "Disk quota exceeded: 'a.json'"),
    "largest file": (raising(OSError(errno.EFBIG, "File too large")), 1, "File too large"),
    "full disk in Rust": (raising(SafetensorError("I/O error: No space left on device (os error 28)")), 1, "(os error 28)"),
    "full disk, said by a verb": (raising(UserError("Report 'x' cannot be written"), FULL), 1, "Report 'x' cannot be written"),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_expected_errors_are_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, code, message = EXPECTED[case]
    assert exit_code(verb) == code
    err = capsys.readouterr().err
    assert err.startswith("lit_degrade: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("code", [None, 0, 1, 7])
def test_a_verb_says_its_own_code(code: int | None) -> None:
    assert exit_code(lambda: code) == (code or 0)


UNEXPECTED = [
    ValueError("a fault"),
    OSError(errno.EIO, "Input/output error"),
    SafetensorError("I/O error: Input/output error (os error 5)"),
    RuntimeError("status 28"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_all_others_keep_their_traceback(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    """A pipe to something else than the reader of our output is one of them."""
    with pytest.raises(type(error)) as raised:
        exit_code(raising(error))
    assert raised.value is error
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_verb_in_order_and_only_while_it_runs(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cleared: list[str] = []

    def verb() -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleared.append("yes")

    assert exit_code(verb) == 128 + number
    assert cleared == ["yes"]
    assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """`nohup` starts a command so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert exit_code(lambda: signal.raise_signal(signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_must_be_whole_is_not_disturbed(number: signal.Signals) -> None:
    whole: list[int] = []

    def verb() -> None:
        with undisturbed():
            signal.raise_signal(number)
            signal.raise_signal(number)
            whole.append(1)
        whole.append(2)

    assert exit_code(verb) == 128 + number
    assert whole == [1]


@pytest.mark.parametrize("args", [["list"], ["list", "targets"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(args: list[str]) -> None:
    """`list | head -1`, whether the output fills the pipe or is written at the very end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_degrade", *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


def test_standard_error_on_a_full_disk_is_no_second_error() -> None:
    code = "import sys; from lit_degrade.cli import main; sys.exit(main(['nonsense']))"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", code], stderr=full, cwd=ROOT, check=False).returncode in (2, 120)


ENDINGS = [("prepare", signal.SIGINT), ("test_step", signal.SIGINT), ("test_step", signal.SIGTERM)]


@pytest.mark.parametrize(("where", "number"), ENDINGS)
def test_a_run_that_is_asked_to_end_leaves_a_record_that_says_so(
    where: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with monkeypatch.context() as patch:
        patch.setattr(EvaluateModule, where, lambda *_: signal.raise_signal(number))
        assert main([*EVALUATE, "--results", str(tmp_path)]) == 128 + number
    err = capsys.readouterr().err
    assert re.fullmatch(r"lit_degrade: (interrupted|ended by a signal); .*\n", err)
    (folder,) = (path.parent for path in tmp_path.glob(f"*/[!.]*/{paths.MANIFEST}"))
    assert manifest_of(folder)["exit_state"] == "interrupted"
    assert os.listdir(folder.parent) == [folder.name]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
