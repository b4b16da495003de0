"""From a section to files: which figures it has, as PNG to look at and as SVG to put into a page."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.looks import STYLE
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.pages.topics import TOPICS


@dataclass(frozen=True)
class Drawing:
    """A figure of a report."""

    name: str
    """file stem"""
    caption: str
    """what is shown, what points and intervals are, how many runs"""
    svg: str
    """an <svg> element to put into a page: text as paths, the same bytes for the same records, ids of its own"""


def draw(section: Section, folder: Path, topics: Sequence[Topic] = TOPICS) -> list[Drawing]:
    """Draw what the records of a section can show, and write NAME.png (300 dpi) and NAME.svg of each figure.

    Args:
        section: of a report.
        folder: is made; other sections must have other folders.
        topics: whose figures are drawn, in this order.

    Returns: the figures, the main one first; none without runs to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(plate, section.design.experiment, folder) for plate in compose(section, topics)]


def compose(section: Section, topics: Sequence[Topic] = TOPICS) -> list[Plate]:
    """The figures of a section.

    Raises: UserError for two of one name, which an extension's may have.
    """
    with mpl.rc_context(STYLE):
        plates = [plate for topic in topics if topic.plates for plate in topic.plates(section)]
    for name, n in Counter(plate.name for plate in plates).items():
        if n > 1:
            raise UserError(f"{n} figures of {section.design.experiment} are called '{name}': expected names of their own.")
    return plates


def _save(plate: Plate, experiment: str, folder: Path) -> Drawing:
    """Write both files. The layout is settled once, for the SVG file."""
    unique = re.sub(r"[^\w-]", "-", f"{experiment}-{plate.name}")
    with mpl.rc_context(STYLE | {"svg.hashsalt": unique}):
        FigureCanvasAgg(plate.figure)
        text = io.StringIO()
        plate.figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        plate.figure.set_layout_engine("none")
        plate.figure.savefig(folder / f"{plate.name}.png", dpi=300)
    svg = _inlined(text.getvalue(), unique)
    (folder / f"{plate.name}.svg").write_text(svg, encoding="utf-8")
    return Drawing(plate.name, plate.caption, svg)


def _inlined(svg: str, unique: str) -> str:
    """The <svg> element alone, with ids that no other figure of a page has."""
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", svg)
