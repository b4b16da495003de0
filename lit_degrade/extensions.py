"""Extensions: folders of a user, or installed packages, that add an analysis, a method, a metric, a figure or a claim.

An extension is a Python package. What its `__init__.py` registers is known to every verb; beside it may lie `topic.py` with a
TOPIC, which `report` shows behind the suite's own, `claims.yaml`, which it judges, and configs, which `list analyses` names.
"""

import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from lit_degrade.errors import UserError

ASKED = "LIT_DEGRADE_EXTENSIONS"
"""Variable of the environment: folders of extensions, with a colon between (a semicolon on Windows)."""
GROUP = "lit_degrade.extensions"
"""Of entry points: how an installed package says that it is one."""
CLAIMS = "claims.yaml"


@dataclass(frozen=True)
class Extension:
    """A package that adds to the suite."""

    name: str
    """of the package"""
    folder: Path

    @property
    def configs(self) -> list[Path]:
        """Config files that it brings."""
        return sorted(path for path in self.folder.glob("*.yaml") if path.name != CLAIMS)

    @property
    def claims(self) -> list[Path]:
        """File of its claims, if it has one."""
        return [path for path in (self.folder / CLAIMS,) if path.is_file()]

    @property
    def code(self) -> list[Path]:
        """Its modules and settings."""
        return sorted([*self.folder.rglob("*.py"), *self.folder.rglob("*.yaml")])


@functools.cache
def extensions() -> tuple[Extension, ...]:
    """Extensions that ASKED names, then those that are installed; each is imported, so that what it registers is known.

    Raises: UserError for what is no package, or has the name of another module. An error of its own code is not caught.
    """
    by_name = {it.name: it for it in _asked()}
    for entry in entry_points(group=GROUP):
        spec = find_spec(entry.module)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"The entry point '{entry.name}' of {GROUP} names '{entry.module}', which is no package.")
        by_name.setdefault(entry.module, Extension(entry.module, Path(spec.submodule_search_locations[0])))
    for name in by_name:
        import_module(name)
    return tuple(by_name.values())


def _asked() -> Iterator[Extension]:
    for place in filter(None, os.environ.get(ASKED, "").split(os.pathsep)):
        folder = Path(place).expanduser().resolve()
        if not (folder / "__init__.py").is_file() or not folder.name.isidentifier():
            raise UserError(
                f"{ASKED}: '{place}' is not the folder of a Python package. Expected one with an __init__.py, whose name is a "
                "name in Python."
            )
        if str(folder.parent) not in sys.path:
            sys.path.append(str(folder.parent))
        spec = find_spec(folder.name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != folder / "__init__.py":
            where = spec.origin if spec else None
            raise UserError(f"{ASKED}: '{place}' has the name of another module ({where}). Expected a name of its own.")
        yield Extension(folder.name, folder)
