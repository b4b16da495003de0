"""What catalogues say of a name."""

from collections.abc import Mapping
from typing import NamedTuple


class Name(NamedTuple):
    """A name of a catalogue."""

    label: str
    """what figures and tables call it"""
    says: str
    """what it means"""


def meanings(known: Mapping[str, Name]) -> dict[str, str]:
    """Name -> what it means."""
    return {name: it.says for name, it in known.items()}
