"""The main figure of an experiment."""

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.topics.outcomes.bars import bar_plates
from lit_degrade.evidence.topics.outcomes.ladder import ladder_plates
from lit_degrade.evidence.topics.outcomes.scaling_curve import curve_plates


def outcome_plates(section: Section) -> list[Plate]:
    """Curves over sizes where subjects differ, a ladder where protocols do, else groups beside each other."""
    return curve_plates(section) or ladder_plates(section) or bar_plates(section)
