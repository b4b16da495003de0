"""Whether W&B runs online; imports nothing heavy, so that a report can ask too."""

import netrc
import os
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlparse

from lit_degrade.errors import unknown
from lit_degrade.subjects.hub import reachable

Mode = Literal["online", "offline", "disabled"]
PROJECT = "lit_degrade"
"""Where runs and reports go unless WANDB_PROJECT says otherwise."""


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
