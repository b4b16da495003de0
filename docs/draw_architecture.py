"""Draws the rooms of the package and who uses whom into docs/architecture.md: python docs/draw_architecture.py.

A room is a folder or a file at the top of the package. An arrow says that a room imports another one; where a room is reached
by way of others too, the direct arrow is left out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "```mermaid\n", "```\n"


def rooms(package: Path) -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    places = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    known = {path.name.removesuffix(".py") for path in places} - {"__init__", "__main__"}
    found: dict[str, set[str]] = {name: set() for name in sorted(known)}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if room in known and isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package.name):
                names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
                found[room] |= {name.split(".")[1] for name in names if name.split(".")[1] in known} - {room}
    return found


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Rooms that one uses, directly or by way of others."""
    return graph[start] | {room for used in graph[start] for room in reached(graph, used)}


def diagram(graph: dict[str, set[str]]) -> str:
    """The picture in Mermaid's language."""
    lines = ["flowchart TD"]
    for room, used in graph.items():
        indirect = {other for one in used for other in reached(graph, one)}
        lines += [f"    {room} --> {other}" for other in sorted(used - indirect)]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the picture as the code is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + diagram(rooms(ROOT / "lit_degrade")) + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
