"""One process at a time: a lock that ends with its process, names its holder, and is never waited for for ever."""

import fcntl
import math
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

WAIT_S = 600.0
"""How long another process is waited for."""
SAY_S = 60.0
"""How often a waiting process says so."""
POLL_S = 0.25
HELD = "LIT_DEGRADE_HELD"
"""Variable with the locks that a process holds: what it starts inherits it, and would wait for a process that waits for it."""


class StillHeldError(Exception):
    """Another process has held a lock for too long, or will not give it back while this one waits."""


class Lock:
    """A file that one process holds; it holds the process's number and host while it is held, and is gone afterwards."""

    def __init__(self, path: Path, what: str) -> None:
        """Nothing is locked yet; `what` is what it guards, in words, as 'run 0123456789ab'."""
        self.path = path
        self.what = what
        self._file = -1

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._file >= 0

    def take(self) -> None:
        """Hold the lock, after any other process that holds it has given it back or has ended.

        Raises: StillHeldError after WAIT_S, or at once when this process or one that started it holds it; OSError.
        """
        started, said = time.monotonic(), -math.inf
        while not self._taken():
            if str(self.path.absolute()) in _held():
                raise StillHeldError(f"{self.what} is being written by this process, or by one that has started it")
            now = time.monotonic()
            if now - started > WAIT_S:
                raise StillHeldError(
                    f"{self.what} is still being written by {self._holder()} after {WAIT_S / 60:g} minutes of waiting; "
                    "start this again when that has ended, or end it"
                )
            if now - said > SAY_S:
                print(f"lit_degrade: {self.what} is being written by {self._holder()}; waiting for it.", file=sys.stderr)
                said = now
            time.sleep(POLL_S)

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self.held:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
            os.environ[HELD] = os.pathsep.join(path for path in _held() if path != str(self.path.absolute()))

    def _taken(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # another process may have removed what it made and left empty
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file), self.path.stat()):  # its holder gave it back in between
                raise FileNotFoundError
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError | FileNotFoundError):
                return False
            raise
        with suppress(OSError):  # a full disk: the lock holds without a name in it
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._file = file
        os.environ[HELD] = os.pathsep.join([*_held(), str(self.path.absolute())])
        return True

    def _holder(self) -> str:
        with suppress(OSError, UnicodeDecodeError):
            return self.path.read_text(encoding="utf-8") or "another process"
        return "another process"


def _held() -> list[str]:
    return [path for path in os.environ.get(HELD, "").split(os.pathsep) if path]
