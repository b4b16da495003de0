"""A file that grows by one entry at a time, so that long work goes on where it was killed."""

import json
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError


class Journal:
    """Entries, one line of JSON each. An entry counts when its line is whole."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was cut off is taken away.

        Raises: UserError when any other line is broken.
        """
        self.path = path
        self.entries: list[dict[str, Any]] = []
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                entry = str(error)
            if not isinstance(entry, dict):
                raise UserError(f"'{path}', line {number}, is broken ({entry}). Move the file away to start again.")
            self.entries.append(entry)
        if len(whole) < len(content):
            path.write_bytes(whole)

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry, in one piece."""
        with self.path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
        self.entries.append(entry)
