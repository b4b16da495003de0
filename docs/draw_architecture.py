"""Draws the rooms of the package and who uses whom into docs/architecture.md: python docs/draw_architecture.py.

A room is a folder or a file at the top of the package, then of its evidence. An arrow says that a room imports another one;
where a room is reached by way of others too, the direct arrow is left out.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
PACKAGES = (ROOT / "lit_degrade", ROOT / "lit_degrade/evidence")
"""Whose rooms are drawn, in the order of the page."""
BEGIN, END = "```mermaid\n", "```\n"


def rooms(package: Path) -> dict[str, set[str]]:
    """Room of a package -> rooms of the same package that it imports."""
    prefix = ".".join(package.relative_to(ROOT).parts) + "."
    places = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    known = {path.name.removesuffix(".py") for path in places} - {"__init__", "__main__"}
    found: dict[str, set[str]] = {name: set() for name in sorted(known)}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if room in known and isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                used = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
                found[room] |= (used & known) - {room}
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
    """The page with its pictures as the code is now."""
    before, *blocks = text.split(BEGIN)
    for package, block in zip(PACKAGES, blocks, strict=True):
        before += BEGIN + diagram(rooms(package)) + END + block.partition(END)[2]
    return before


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
