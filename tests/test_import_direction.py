"""Data flows one way: a folder imports only from those above it."""

import ast
import runpy
from pathlib import Path

from test_cli import ROOT

import lit_degrade

ORDER = [
    "__init__.py", "errors.py", "checks.py", "exits.py", "inputs.py", "seeds.py", "subjects", "text_files.py", "text.py",
    "tasks", "generation", "curvature", "perturbations", "measures", "criticality", "pruning", "faults", "adversarial",
    "stimuli", "records", "evidence", "modules", "callbacks", "command_line.py", "run.py", "grids", "listing.py", "cli.py",
    "__main__.py",
]  # fmt: skip
"""From what everything may use to what only the command line uses."""


PAGES = ("chapters.py", "page.py", "report.py", "wandb_report.py", "dashboards.py")
"""What may use figures."""


def test_numbers_words_and_tables_take_nothing_from_figures() -> None:
    room = Path(lit_degrade.__file__).parent / "evidence"
    for path in room.glob("*.py"):
        if path.name not in PAGES:
            assert "evidence.figures" not in path.read_text(), path.name


def test_the_picture_of_the_rooms_is_what_the_code_is() -> None:
    """Else: python docs/draw_architecture.py."""
    drawn = runpy.run_path(str(ROOT / "docs/draw_architecture.py"))
    text = drawn["PAGE"].read_text(encoding="utf-8")
    assert drawn["page"](text) == text
    assert "modules --> records" in text


def test_imports_flow_one_way() -> None:
    root = Path(lit_degrade.__file__).parent
    rank = {name: i for i, name in enumerate(ORDER)}
    wrong = []
    for path in root.rglob("*.py"):
        folder = path.relative_to(root).parts[0]
        assert folder in rank, f"{folder} has no place in ORDER yet"
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] != "lit_degrade" or len(parts) == 1:
                    continue
                target = parts[1] if parts[1] in rank else f"{parts[1]}.py"
                if target in rank and rank[target] > rank[folder]:
                    wrong.append(f"{path.relative_to(root)} imports {name}")
    assert wrong == []
