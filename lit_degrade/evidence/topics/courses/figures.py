"""Figures of the course of runs."""

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.topics.courses.spectra import spectra_plates
from lit_degrade.evidence.topics.courses.trajectories import trajectory_plates


def course_plates(section: Section) -> list[Plate]:
    """Trajectories, then spectra."""
    return [*trajectory_plates(section), *spectra_plates(section)]
