"""Whether W&B runs online, and which run this is to it; imports nothing heavy, so that a report can ask too."""

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlparse

from lit_degrade.errors import unknown
from lit_degrade.subjects.hub import reachable

Mode = Literal["online", "offline", "disabled"]
PROJECT = "lit_degrade"
"""Where runs and reports go unless WANDB_PROJECT says otherwise."""
ONE_RUN = (
    "WANDB_RUN_ID", "WANDB_NAME", "WANDB_RUN_NAME", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE",
)  # fmt: skip
"""Variables that say to the W&B client which run this is, and which process keeps it."""


@contextmanager
def of_no_run() -> Iterator[None]:
    """Hide from the runs that are started within which run this process is, or belongs to: each of them is another."""
    kept = {name: os.environ.pop(name) for name in ONE_RUN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def wandb_mode() -> Mode:
    """WANDB_MODE when set; else online with an API key and a server that answers; else offline.

    Raises: UserError for a WANDB_MODE that is none of these.
    """
    asked = os.environ.get("WANDB_MODE")
    if asked:
        if asked not in get_args(Mode):
            raise unknown("WANDB_MODE", asked, get_args(Mode))
        return cast(Mode, asked)
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return "online" if _has_key(url) and reachable(url) else "offline"


def _has_key(url: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(path).authenticators(urlparse(url).hostname or "") is not None
    except (netrc.NetrcParseError, OSError):
        return False
