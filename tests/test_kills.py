"""A hundred SIGKILLs at random moments: whatever is killed, the same command again leaves what an undisturbed one leaves."""

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import yaml
from helpers import DEGRADE, QUICK, ROOT, SHORT

from lit_degrade.evidence.reading.runs import HIDDEN
from lit_degrade.grids import local
from lit_degrade.modules.outputs import CLOCK
from lit_degrade.records import paths
from lit_degrade.records.reading import defect_of

SHORT_RUN = [*QUICK[:2], *QUICK[-6:], "--text.source", "text.txt", "--results", "r"]
FIT = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), *SHORT_RUN]
PREDICT = [*DEGRADE, *SHORT, "--variants", "gauss_attn", "--tasks", "dreams_it", "--results", "r"]
SWEEP = ["sweep", "grid.yaml", "--workers", "2", "--results", "r"]
REPORT = ["report", "r"]
POLL_S = 0.005


@dataclass(frozen=True)
class Order:
    """A command line to run in a folder, and after how many seconds to kill what."""

    args: list[str]
    folder: Path
    seconds: float = 600.0
    worker: bool = False
    """kill one of the runs of a sweep, not the sweep"""


def serve(orders: Connection) -> None:
    """In a process that has imported everything: fork a child for every order, kill it in time, and say how it has ended."""
    for name in ("lit_degrade.run", "lit_degrade.evidence.pages.report", "lit_degrade.cli"):
        importlib.import_module(name)
    os.environ |= {"WANDB_MODE": "disabled", "COLUMNS": "160"}
    local.prepare_server(1, for_runs=True)
    forkserver.ensure_running()  # sweeps of the children fork their runs from it
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    while True:
        order = orders.recv()
        started = time.monotonic()
        child = os.fork()
        if not child:
            _obey(order)
        killed, status = False, (0, 0)
        while status[0] == 0:
            if not killed and time.monotonic() - started > order.seconds:
                victims = _runs(server) if order.worker else [child]
                killed = bool(victims)
                for victim in victims[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
            time.sleep(POLL_S)
            status = os.waitpid(child, os.WNOHANG)
        while _runs(server):  # they see that their sweep is gone, and end
            time.sleep(POLL_S)
        orders.send((killed, os.waitstatus_to_exitcode(status[1]), time.monotonic() - started))


def _obey(order: Order) -> None:
    from lit_degrade.cli import main

    code = 1
    try:
        os.chdir(order.folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined] # it is another process's child
        code = main(order.args)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _runs(server: int) -> list[int]:
    """Living children of a fork server."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == server and state != "Z":
                found.append(int(stat.parent.name))
    return found


class Commands:
    """Runs commands by orders to `serve`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.kills = 0

    def __call__(self, *order: Any) -> tuple[bool, int, float]:
        """Whether the command was killed, its exit code, and how long it took."""
        self.connection.send(Order(*order))
        answer = self.connection.recv()
        self.kills += answer[0]
        return answer


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    local.prepare_server(1, for_runs=True)
    process = context.Process(target=serve, args=(there,))
    process.start()
    yield Commands(here)
    process.kill()


def made(folder: Path) -> dict[str, Any]:
    """What two undisturbed commands leave in common: everything below the results but clocks, pictures and what is shared."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "r").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or ".cache" in name or ".sweeps" in name:
            continue
        if path.name == paths.MANIFEST:
            found[name] = json.loads(path.read_text())["exit_state"]
        elif path.name == paths.SUMMARY:
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "tokens_per_second"}
        elif path.match(paths.OUTPUTS):
            found[name] = [{k: v for k, v in row.items() if k not in CLOCK} for row in json.loads(path.read_text())]
        else:
            found[name] = path.suffix in (".png", ".svg") or path.read_bytes()
    return found


def hidden(folder: Path) -> list[Path]:
    """What a run uses while it is written."""
    return [path for path in (folder / "r").rglob(".*") if path.name.endswith(HIDDEN)]


def begin(case: str, folder: Path) -> None:
    """Everything that has been recorded goes, but for the record that a repeat or a report is about."""
    for path in [*folder.glob("r/[!.]*"), *folder.glob("r/.sweeps")]:
        if case not in ("repeat", "report") or path.name == "report":
            shutil.rmtree(path)


CASES = {
    "fit": (FIT, 24),
    "repeat": ([*FIT, "--repeat", "true"], 24),
    "predict": (PREDICT, 20),
    "report": (REPORT, 14),
    "sweep": (SWEEP, 18),
}
"""Command and how often it is killed: 100 times in all."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_moment_the_same_command_again_completes_it(case: str, commands: Commands, tmp_path: Path) -> None:
    args, kills = CASES[case]
    draws = random.Random(case)
    words = ["${env}", "${interpreter}", "-m", "${program}", "fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK]
    parameters = {"model.stimulus": {"values": ["random_tokens", "random_text"]}, "seed_everything": {"value": 43}}
    content = {"program": "lit_degrade", "method": "grid", "command": [*words, "${args}"], "parameters": parameters}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "text.txt").write_text("\n\n".join(list(topics.values())[:40]))
    if case == "report":
        assert commands(FIT, tmp_path)[1] == 0
    assert commands(args, tmp_path)[:2] == (False, 0), (tmp_path / "log").read_text()
    expected = made(tmp_path)
    begin(case, tmp_path)
    seconds = commands(args, tmp_path)[2]  # with everything that runs share, as those have that are killed
    assert made(tmp_path) == expected
    begin(case, tmp_path)
    while kills:
        share = draws.choice((draws.uniform(0, 1), draws.uniform(0.8, 1)))
        killed, code, _ = commands(args, tmp_path, share * seconds, case == "sweep" and draws.random() < 0.5)
        for manifest in tmp_path.glob(f"r/*/[!.]*/{paths.MANIFEST}"):
            assert not defect_of(manifest.parent), "what can be seen is whole at any moment"
        kills -= killed
        seconds *= 1.05 if killed else 0.8  # the machine may have become faster or slower
        if code == 0:
            assert made(tmp_path) == expected
            assert not hidden(tmp_path)
            begin(case, tmp_path)
    assert commands(args, tmp_path)[:2] == (False, 0), (tmp_path / "log").read_text()
    assert made(tmp_path) == expected
    assert not hidden(tmp_path)
