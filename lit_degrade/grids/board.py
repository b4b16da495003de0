"""What a sweep is doing: a live table on a terminal, a line for each run elsewhere."""

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text


class Board:
    """Counts runs by state, and guesses the time left from those that have ended."""

    def __init__(self, title: str, names: list[str], skipped: int, workers: int) -> None:
        """Show `names` as they run; `skipped` ones are finished already."""
        self.title, self.names, self.skipped, self.workers = title, names, skipped, workers
        self.started: dict[int, float] = {}
        self.seconds: list[float] = []
        self.ended: Counter[str] = Counter()
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        """Show the table."""
        if self.live:
            self.live.start()
        self.show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the counts, unless there is an error to leave alone."""
        if self.live:
            self.live.stop()
        if kind is None or kind is KeyboardInterrupt:
            self.console.print(self.counts(), soft_wrap=True, markup=False)

    def start(self, number: int) -> None:
        """A run starts."""
        self.started[number] = time.monotonic()
        self.show()

    def end(self, number: int, state: str) -> None:
        """A run has ended."""
        seconds = time.monotonic() - self.started.pop(number, time.monotonic())
        self.seconds.append(seconds)
        self.ended[state] += 1
        if not self.live:
            done = sum(self.ended.values())
            self.console.print(
                f"{done}/{len(self.names)} {state} {self.names[number]} {seconds:.1f} s",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
        self.show()

    def show(self) -> None:
        """Draw the table anew."""
        if self.live:
            table = Table("running", "for", title=Text(self.title))
            for number, since in self.started.items():
                table.add_row(Text(self.names[number]), f"{time.monotonic() - since:.0f} s")
            self.live.update(Group(table, Text(self.counts())), refresh=True)

    def counts(self) -> str:
        """One line: how many are finished, done, failed, left, and how long it may take."""
        left = len(self.names) - sum(self.ended.values())
        parts = [f"{self.skipped} finished before"] if self.skipped else []
        parts += [f"{count} {state}" for state, count in sorted(self.ended.items())]
        parts += [f"{len(self.started)} running"] if self.started else []
        if left:
            parts.append(f"{left} left")
            if self.seconds:
                minutes = sum(self.seconds) / len(self.seconds) * left / min(self.workers, left) / 60
                parts.append(f"about {minutes:.1f} min")
        return f"{self.title}: {', '.join(parts) or 'nothing to run'}"
