"""Progress of work that is not a training step."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A progress bar on standard error that disappears when done; nothing at all when `shown` is False."""

    def __init__(self, description: str, total: int, shown: bool) -> None:
        """Prepare a bar of `total` units."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = RichProgress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
        self._task = self._progress.add_task(description, total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def advance(self, units: int = 1) -> None:
        """Some units are done."""
        self._progress.advance(self._task, units)
