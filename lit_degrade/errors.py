"""Errors that a user can mend, and outcomes that end a run; each writes its own one-line message."""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in a config, a file or an environment: one clear line, exit code 2, nothing written."""


class OutOfMemory(Exception):
    """Memory ran out: one line with what would help, exit code 1; the record says that the run failed."""


class Diverged(Exception):
    """The loss or a gradient became non-finite: an outcome, recorded with its step, exit code 3."""

    def __init__(self, step: int, what: str) -> None:
        """Keep the step (0-based count of completed optimizer steps) at which `what` was found non-finite."""
        super().__init__(f"{what} became non-finite at step {step}")
        self.step = step


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left on the device, or a quota or a limit on the size of files is reached."""


def disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room for a file; libraries with classes of their own put the number into words."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return any(int(number) in _NO_ROOM for number in re.findall(r"\(os error (\d+)\)", str(error)))


def unknown(kind: str, value: str, available: Iterable[str]) -> UserError:
    """Error for a name that is not in a catalogue, with the nearest name and everything available."""
    names = list(available)
    near = get_close_matches(value, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"Unknown {kind} '{value}'.{hint} Available: {', '.join(names)}.")
