"""Data flows one way: a folder imports only from those above it."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT

import lit_degrade

ORDER = [
    "__init__.py", "errors.py", "names.py", "checks.py", "exits.py", "extensions.py", "inputs.py", "seeds.py", "subjects",
    "text_files.py", "text.py", "tasks", "generation", "curvature", "perturbations", "measures", "criticality", "pruning",
    "faults", "adversarial", "stimuli", "records", "evidence", "modules", "callbacks", "command_line.py", "run.py", "grids",
    "listing.py", "cli.py", "__main__.py",
]  # fmt: skip
"""From what everything may use to what only the command line uses."""


ROOMS = ["numbers", "reading", "claims", "drawing", "topics", "pages"]
"""Of evidence, from statistics that know of no record to what a reader opens."""


def _imports(path: Path) -> Iterator[str]:
    """Modules that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_rooms_of_evidence_import_one_way_and_topics_import_no_other_topic() -> None:
    room = Path(lit_degrade.__file__).parent / "evidence"
    wrong = []
    for path in room.glob("*/**/*.py"):
        here, *rest = path.relative_to(room).parts
        for name in _imports(path):
            there, _, below = name.removeprefix("lit_degrade.evidence.").partition(".")
            if name.startswith("lit_degrade.evidence.") and (
                ROOMS.index(there) > ROOMS.index(here) or (here == there == "topics" and below.partition(".")[0] != rest[0])
            ):
                wrong.append(f"{path.relative_to(room)} imports {name}")
    assert wrong == []


def test_tables_and_rows_take_nothing_from_figures() -> None:
    room = Path(lit_degrade.__file__).parent / "evidence"
    paths = [*room.glob("topics/*/tables.py"), *room.glob("topics/*/rows.py"), room / "drawing/tables.py"]
    assert len(paths) > 15
    drawn = (".figures", "drawing.axes", "drawing.heat", "drawing.groups", "drawing.panels", "matplotlib")
    assert [f"{path}: {name}" for path in paths for name in _imports(path) if any(part in name for part in drawn)] == []


def test_the_picture_of_the_rooms_is_what_the_code_is() -> None:
    """Else: python docs/draw_architecture.py."""
    drawn = runpy.run_path(str(ROOT / "docs/draw_architecture.py"))
    text = drawn["PAGE"].read_text(encoding="utf-8")
    assert drawn["page"](text) == text
    assert "modules --> records" in text
    assert "pages --> topics" in text


def test_imports_flow_one_way() -> None:
    root = Path(lit_degrade.__file__).parent
    rank = {name: i for i, name in enumerate(ORDER)}
    wrong = []
    for path in root.rglob("*.py"):
        folder = path.relative_to(root).parts[0]
        assert folder in rank, f"{folder} has no place in ORDER yet"
        for name in _imports(path):
            parts = name.split(".")
            target = parts[1] if parts[1:] and parts[1] in rank else f"{'.'.join(parts[1:2])}.py"
            if parts[0] == "lit_degrade" and target in rank and rank[target] > rank[folder]:
                wrong.append(f"{path.relative_to(root)} imports {name}")
    assert wrong == []
