"""From a section to files: which figures it has, as PNG to look at and as SVG to put into a page."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lit_degrade.evidence.figures.adversarial import adversarial_plates
from lit_degrade.evidence.figures.bars import bar_plates
from lit_degrade.evidence.figures.benchmarks import benchmark_plates
from lit_degrade.evidence.figures.bits import bit_plates
from lit_degrade.evidence.figures.dose_response import dose_plates
from lit_degrade.evidence.figures.effects import effect_plates
from lit_degrade.evidence.figures.exchange_rates import rate_plates
from lit_degrade.evidence.figures.ladder import ladder_plates
from lit_degrade.evidence.figures.looks import STYLE
from lit_degrade.evidence.figures.maps import map_plates
from lit_degrade.evidence.figures.panels import Plate
from lit_degrade.evidence.figures.pruning import pruning_plates
from lit_degrade.evidence.figures.scaling_curve import curve_plates
from lit_degrade.evidence.figures.spectra import spectra_plates
from lit_degrade.evidence.figures.stability import stability_plates
from lit_degrade.evidence.figures.trajectories import trajectory_plates
from lit_degrade.evidence.figures.variants import variant_plates
from lit_degrade.evidence.sections import Section


@dataclass(frozen=True)
class Drawing:
    """A figure of a report."""

    name: str
    """file stem"""
    caption: str
    """what is shown, what points and intervals are, how many runs"""
    svg: str
    """an <svg> element to put into a page: text as paths, the same bytes for the same records, ids of its own"""


def draw(section: Section, folder: Path) -> list[Drawing]:
    """Draw what the records of a section can show, and write NAME.png (300 dpi) and NAME.svg of each figure.

    Args:
        section: of a report.
        folder: is made; other sections must have other folders.

    Returns: the figures, the main one first; none without runs to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(plate, section.design.experiment, folder) for plate in compose(section)]


def compose(section: Section) -> list[Plate]:
    """The figures of a section: the main figure, those of tables that runs left, trajectories, spectra."""
    with mpl.rc_context(STYLE):
        main = curve_plates(section) or ladder_plates(section) or bar_plates(section)
        return [
            *main,
            *rate_plates(section),
            *dose_plates(section),
            *effect_plates(section),
            *stability_plates(section),
            *map_plates(section),
            *bit_plates(section),
            *adversarial_plates(section),
            *pruning_plates(section),
            *benchmark_plates(section),
            *variant_plates(section),
            *trajectory_plates(section),
            *spectra_plates(section),
        ]


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
