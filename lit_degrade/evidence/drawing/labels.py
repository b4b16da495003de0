"""Names beside points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_degrade.evidence.drawing.looks import GREY
from lit_degrade.evidence.numbers.statistics import Values

LETTER, LINE, RADIUS = 3.1, 6.0, 2.5
"""Width and height of letters beside points, and half the width of a point [points]."""


NEAR = 5
"""From a point to the nearest part of its name [points]; farther ones have a line."""


_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


AWAY = tuple((x * reach, y * reach) for reach in (4, 10, 16, 24) for x, y in _SIDES)
"""Where names may be, the best place first [points]."""


def name_points(figure: Figure, ax: Axes, places: Values, names: Sequence[str]) -> None:
    """Names beside their points, where they cover neither points nor other names; far ones with a line."""
    figure.draw_without_rendering()  # the layout decides how much room there is
    scale = 72 / figure.dpi
    points, frame = scale * ax.transData.transform(places), scale * ax.bbox.get_points()
    taken = np.concatenate([points - RADIUS, points + RADIUS], axis=1)
    for point, place, name in zip(points, places, names, strict=True):
        half = np.array([LETTER * len(name), LINE]) / 2
        for away in AWAY:
            middle = np.array(away) + half * np.sign(away)
            box = np.concatenate([point + middle - half, point + middle + half])
            apart = (box[2:] < taken[:, :2]) | (taken[:, 2:] < box[:2])
            if apart.any(axis=1).all() and (box[:2] >= frame[0]).all() and (box[2:] <= frame[1]).all():
                taken = np.vstack([taken, box])
                _label(ax, name, place, middle, np.abs(away).max() > NEAR)
                break


def _label(ax: Axes, name: str, place: Values, middle: Values, line: bool) -> None:
    """A name whose middle is so many points away from its place."""
    arrow = {"arrowstyle": "-", "lw": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2} if line else None
    style: Any = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 5.5, "arrowprops": arrow}
    ax.annotate(name, tuple(place), tuple(middle), **style).set_in_layout(False)
