"""One question asked before any download: can the hub be reached?"""

import os
import socket
from urllib.parse import urlparse

TIMEOUT_S = 3.0


def reachable(url: str) -> bool:
    """Whether a TCP connection to the host of `url` opens within TIMEOUT_S."""
    parsed = urlparse(url)
    try:
        port = parsed.port or (80 if parsed.scheme == "http" else 443)
        with socket.create_connection((parsed.hostname or "", port), TIMEOUT_S):
            return True
    except OSError:
        return False


def hub_endpoint() -> str:
    """Address of the model hub (HF_ENDPOINT, or the default)."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def go_offline_if_unreachable() -> bool:
    """Make the hub's client use only its local cache when the hub cannot be reached, instead of retrying for a minute.

    Returns: True when offline.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not reachable(hub_endpoint()):
        constants.HF_HUB_OFFLINE = True
    return constants.HF_HUB_OFFLINE
