"""Runs side by side on this machine, forked from a server that has imported everything once."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from lit_degrade.grids import worker
from lit_degrade.grids.worker import Resolved

POLL_S = 1.0
"""How often the table is redrawn while no run ends."""

Event = tuple[int, int | None]
"""Number of a run, and its exit code, or None when it starts."""


def prepare_server(threads: int, for_runs: bool) -> None:
    """Say what the server has ready; its first child starts it.

    Args:
        threads: of a run, unless OMP_NUM_THREADS is set.
        for_runs: whether it will start runs, which read text.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    text = ["lit_degrade.grids.preload_text"] if for_runs else []
    multiprocessing.set_forkserver_preload(["lit_degrade.grids.preload", *text])


def resolve(command_lines: Sequence[list[str]]) -> list[Resolved]:
    """What each command line would write, found in one child of the server."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=worker.resolve_all, args=(command_lines, there))
    process.start()
    there.close()
    try:
        resolved: list[Resolved] = [here.recv() for _ in command_lines]
    except EOFError:
        process.join()  # with a traceback of its own, unless it was killed
        raise SystemExit(f"lit_degrade: finding the records of this sweep ended with exit code {process.exitcode}.") from None
    process.join()
    return resolved


def launch(command_lines: Sequence[list[str]], logs: Sequence[Path], workers: int) -> Iterator[Event | None]:
    """Run every command line, `workers` at a time, in order; yields when one starts or ends, and None now and then."""
    context = multiprocessing.get_context("forkserver")
    waiting = list(range(len(command_lines)))
    running: dict[int, multiprocessing.process.BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop(0)
                running[number] = context.Process(target=worker.execute, args=(command_lines[number], logs[number]))
                running[number].start()
                yield number, None
            wait([process.sentinel for process in running.values()], timeout=POLL_S)
            for number, process in list(running.items()):
                if not process.is_alive():
                    del running[number]
                    yield number, process.exitcode
            yield None
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()
