"""Draw the picture of the task cookie_theft_it: an own kitchen scene in which several things go on at once.

Run: python docs/draw_cookie_theft.py [file]. Writes 640 x 480 pixels, the same ones every time.
"""

import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 480)
FINE = 4
"""Drawn this many times larger, then reduced: smooth lines."""
SHIPPED = Path(__file__).parents[1] / "lit_degrade" / "tasks" / "cookie_theft.png"
BLACK, WHITE, SKIN, WATER, SKY = "#000000", "#ffffff", "#fbe3d0", "#a9d5f2", "#e3f2fb"
WOOD, GREEN, RED, YELLOW, GREY, BROWN = "#ecd6b0", "#bfe0b0", "#f0b4ac", "#fbe79a", "#d8d8d8", "#8a5a35"

Point = tuple[float, float]


class Paper:
    """A sheet of 640 x 480 units, origin at the top left, that draws outlined shapes."""

    def __init__(self) -> None:
        """Start white."""
        self.image = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), WHITE)
        self.draw = ImageDraw.Draw(self.image)

    def line(self, *points: Point, width: float = 2, colour: str = BLACK) -> None:
        """Draw a line through the points with round ends and corners."""
        fine = [(x * FINE, y * FINE) for x, y in points]
        self.draw.line(fine, fill=colour, width=round(width * FINE), joint="curve")
        radius = width * FINE / 2 - 0.5
        for x, y in fine:
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def curve(self, start: Point, bend: Point, end: Point, width: float = 2, colour: str = BLACK) -> None:
        """Draw a quadratic curve from start to end, pulled towards `bend`."""
        self.line(*bent(start, bend, end), width=width, colour=colour)

    def shape(self, *points: Point, fill: str = WHITE) -> None:
        """Fill a polygon and draw its outline."""
        self.draw.polygon([(x * FINE, y * FINE) for x, y in points], fill=fill)
        self.line(*points, points[0])

    def box(self, left: float, top: float, right: float, bottom: float, fill: str = WHITE) -> None:
        """Fill a rectangle and draw its outline."""
        self.shape((left, top), (right, top), (right, bottom), (left, bottom), fill=fill)

    def oval(self, x: float, y: float, wide: float, high: float, fill: str = WHITE, width: float = 2) -> None:
        """Fill an ellipse about (x, y) with half axes `wide` and `high`, and draw its outline."""
        around = [(x - wide) * FINE, (y - high) * FINE, (x + wide) * FINE, (y + high) * FINE]
        self.draw.ellipse(around, fill=fill, outline=BLACK, width=round(width * FINE))

    def limb(self, *points: Point, width: float, fill: str) -> None:
        """Draw an arm or a leg: a thick line with an outline."""
        self.line(*points, width=width + 4, colour=BLACK)
        self.line(*points, width=width, colour=fill)

    def eye(self, x: float, y: float) -> None:
        """Draw a dot."""
        self.oval(x, y, 1.8, 2.2, fill=BLACK)

    def words(self, x: float, y: float, text: str, size: float) -> None:
        """Write text centred at (x, y)."""
        self.draw.text((x * FINE, y * FINE), text, fill=BLACK, font=ImageFont.load_default(size * FINE), anchor="mm")


def bent(start: Point, bend: Point, end: Point) -> list[Point]:
    """17 points of the quadratic curve from start to end, pulled towards `bend`."""
    steps = [i / 16 for i in range(17)]
    pairs = list(zip(start, bend, end, strict=True))
    return [(at(pairs[0], t), at(pairs[1], t)) for t in steps]


def at(ends: tuple[float, float, float], t: float) -> float:
    """Coordinate of a quadratic curve at t in [0, 1]."""
    a, b, c = ends
    return a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2


def turned(point: Point, about: Point, degrees: float) -> Point:
    """The point turned clockwise about another."""
    angle = math.radians(degrees)
    x, y = point[0] - about[0], point[1] - about[1]
    return about[0] + x * math.cos(angle) - y * math.sin(angle), about[1] + x * math.sin(angle) + y * math.cos(angle)


def room(paper: Paper) -> None:
    """Draw floor, skirting board and the clock."""
    paper.line((0, 372), (640, 372))
    paper.line((0, 364), (640, 364), width=1)
    paper.oval(352, 74, 28, 28)
    for hour in range(12):
        angle = hour * math.pi / 6
        x, y = math.sin(angle), math.cos(angle)
        paper.line((352 + 21 * x, 74 + 21 * y), (352 + 24 * x, 74 + 24 * y))
    paper.line((352, 74), (366, 81), width=3)
    paper.line((352, 74), (352, 55))


def window(paper: Paper) -> None:
    """Draw the window: a hill, a house, a tree, a bird, and curtains."""
    paper.box(34, 34, 206, 182, fill=SKY)
    paper.shape((34, 150), *bent((34, 150), (120, 112), (206, 142)), (206, 182), (34, 182), fill=GREEN)
    paper.oval(96, 62, 13, 13, fill=YELLOW)
    paper.box(66, 118, 106, 148, fill=WHITE)
    paper.shape((60, 118), (86, 94), (112, 118), fill=RED)
    paper.box(80, 130, 92, 148, fill=WOOD)
    paper.limb((158, 160), (158, 124), width=5, fill=BROWN)
    paper.oval(158, 102, 22, 26, fill=GREEN)
    for x, y in ((138, 72), (156, 58)):
        paper.curve((x - 9, y - 3), (x - 4, y - 7), (x, y), width=1.5)
        paper.curve((x, y), (x + 4, y - 7), (x + 9, y - 3), width=1.5)
    paper.line((120, 34), (120, 182), width=4)
    for edge, inner in ((34, 70), (206, 170)):
        paper.shape((edge, 34), (inner, 34), *bent((inner, 34), (inner, 80), (edge, 122)), fill=RED)
        middle = (edge + inner) / 2
        paper.curve((middle, 36), (middle, 70), (edge + (6 if edge < inner else -6), 100), width=1)
    paper.line((22, 30), (218, 30), width=5)
    paper.line((26, 184), (214, 184), width=5)


def counter(paper: Paper) -> None:
    """Draw the counter with its doors, the plates waiting on it, and a teapot."""
    paper.box(0, 262, 318, 385, fill=WOOD)
    for left, right in ((4, 38), (186, 248), (252, 314)):
        paper.box(left, 274, right, 378, fill=WOOD)
        paper.oval(right - 8, 322, 3, 3, fill=BLACK)
    paper.box(0, 248, 322, 262, fill=GREY)
    for y in (244, 239, 234):
        paper.oval(288, y, 24, 5)
    paper.oval(20, 232, 14, 14, fill=YELLOW)
    paper.oval(20, 217, 3, 3, fill=YELLOW)
    paper.line((10, 222), (30, 222))


def sink(paper: Paper) -> None:
    """Draw the sink that overflows, the running tap and the puddle."""
    paper.shape(*bent((20, 408), (100, 376), (216, 404)), *bent((216, 404), (200, 448), (108, 438)),
                *bent((108, 438), (10, 444), (20, 408)), fill=WATER)  # fmt: skip
    paper.box(44, 244, 178, 316, fill=WHITE)
    paper.oval(111, 245, 66, 9, fill=WATER)
    left = bent((62, 250), (56, 320), (60, 412))
    right = bent((160, 412), (166, 320), (158, 250))
    paper.draw.polygon([(x * FINE, y * FINE) for x, y in (*left, *right)], fill=WATER)
    paper.line(*left)
    paper.line(*right)
    for x in (80, 100, 122, 142):
        paper.curve((x, 262), (x + 6, 320), (x - 1, 398), width=1)
    for x, y in ((48, 402), (176, 410), (186, 394), (38, 418)):
        paper.curve((x - 6, y), (x, y - 8), (x + 6, y))
    for x in (58, 104, 148):
        paper.curve((x - 16, 424), (x, 417), (x + 16, 424), width=1)
    paper.line(*bent((134, 248), (136, 192), (104, 200)), (104, 208), width=11)
    paper.line(*bent((134, 248), (136, 192), (104, 200)), (104, 208), width=7, colour=GREY)
    paper.limb((98, 211), (110, 211), width=3, fill=GREY)
    paper.limb((136, 214), (150, 208), width=4, fill=GREY)
    paper.line((104, 215), (104, 243), width=9)
    paper.line((104, 215), (104, 243), width=6, colour=WATER)
    paper.curve((88, 246), (104, 238), (120, 246), width=1)


def adult(paper: Paper) -> None:
    """Draw the adult who dries a plate and looks away from the sink."""
    for x in (224, 248):
        paper.limb((x, 372), (x, 424), width=9, fill=SKIN)
        paper.oval(x + 6, 430, 14, 6, fill=BLACK)
    paper.oval(231, 121, 24, 27, fill=BROWN)
    paper.oval(210, 113, 12, 13, fill=BROWN)
    paper.limb((236, 146), (236, 160), width=12, fill=SKIN)
    paper.shape((214, 160), (258, 160), (262, 240), (284, 384), (196, 384), (210, 240), fill=GREEN)
    paper.shape((224, 184), (252, 184), (258, 240), (270, 364), (210, 364), (218, 240))
    paper.line((226, 184), (222, 160))
    paper.line((250, 184), (252, 160))
    paper.line((212, 240), (262, 240), width=4)
    paper.oval(238, 127, 19, 22, fill=SKIN)
    hair = bent((218, 125), (222, 101), (254, 113))
    paper.shape(*hair, *bent((254, 113), (262, 93), (232, 96)), *bent((232, 96), (206, 99), (218, 125)), fill=BROWN)
    paper.eye(240, 126)
    paper.eye(251, 126)
    paper.curve((247, 128), (254, 135), (247, 136), width=1.5)
    paper.curve((240, 140), (246, 145), (251, 139))
    paper.limb((216, 172), (206, 214), (246, 222), width=11, fill=GREEN)
    paper.oval(282, 196, 29, 29)
    paper.oval(282, 196, 19, 19, width=1)
    paper.shape((250, 214), (276, 208), (290, 220), (284, 270), (270, 263), (258, 271), fill=YELLOW)
    paper.line((262, 222), (262, 263), width=1)
    paper.line((276, 218), (274, 258), width=1)
    paper.oval(254, 222, 8, 7, fill=SKIN)
    paper.limb((256, 172), (280, 178), (304, 180), width=11, fill=GREEN)
    paper.oval(307, 183, 7, 8, fill=SKIN)


def shelf(paper: Paper) -> None:
    """Draw the shelf with the open cookie jar, its lid and a cup."""
    for x in (446, 606):
        paper.shape((x, 134), (x + 14, 134), (x, 156), fill=WOOD)
    paper.box(424, 124, 632, 135, fill=WOOD)
    for x, y in ((466, 62), (482, 56), (498, 62), (475, 69), (492, 69)):
        paper.oval(x, y, 11, 10, fill=WOOD)
        for shift in (-4, 1, 5):
            paper.oval(x + shift, y - 3 + abs(shift), 1, 1, fill=BROWN, width=1)
    paper.shape((458, 72), (506, 72), *bent((506, 72), (530, 98), (510, 124)), (454, 124),
                *bent((454, 124), (434, 98), (458, 72)), fill=SKY)  # fmt: skip
    paper.box(454, 89, 506, 108)
    paper.words(480, 99, "COOKIES", 11)
    paper.oval(552, 118, 6, 5, fill=GREY)
    paper.shape(*bent((546, 124), (568, 100), (594, 124)), fill=GREY)
    paper.oval(570, 109, 4, 4, fill=GREY)
    paper.oval(615, 112, 6, 7)
    paper.box(598, 102, 615, 124, fill=RED)


def stool(paper: Paper, foot: Point, degrees: float) -> None:
    """Draw a stool 94 units high that tilts over its right foot, with marks of movement."""

    def on(x: float, y: float) -> Point:
        return turned((foot[0] + x, foot[1] + y), foot, degrees)

    paper.limb(on(-20, -88), on(-26, -6), width=5, fill=WOOD)
    for start, end in (((-54, -88), (-68, 0)), ((-12, -88), (0, 0))):
        paper.limb(on(*start), on(*end), width=7, fill=WOOD)
    paper.limb(on(-63, -32), on(-4, -32), width=4, fill=WOOD)
    paper.limb(on(-66, -92), on(0, -92), width=11, fill=WOOD)
    for shift in (0, 9):
        paper.curve(on(-80 - shift, 2 + shift), on(-90 - shift, -8 + shift), on(-86 - shift, -22 + shift))


def boy(paper: Paper) -> None:
    """Draw the boy who loses his balance with one hand in the jar and a cookie in the other."""
    paper.limb((548, 262), (538, 292), (532, 322), width=12, fill=SKIN)
    paper.limb((566, 262), (574, 296), (576, 334), width=12, fill=SKIN)
    paper.oval(526, 328, 15, 7, fill=BLACK)
    paper.oval(572, 343, 15, 7, fill=BLACK)
    paper.shape((538, 238), (576, 238), (582, 286), (562, 288), (558, 262), (549, 284), (530, 280), fill=WATER)
    paper.limb((556, 190), (560, 206), width=10, fill=SKIN)
    paper.shape((540, 200), (574, 202), (578, 246), (536, 242), fill=RED)
    for y in (214, 226, 238):
        paper.line((540, y - 2), (576, y), width=1.5)
    paper.limb((544, 208), (526, 168), (524, 120), (506, 78), width=10, fill=SKIN)
    paper.limb((544, 208), (533, 184), width=12, fill=RED)
    paper.oval(503, 70, 8, 8, fill=SKIN)
    paper.limb((572, 210), (604, 222), (618, 198), width=10, fill=SKIN)
    paper.limb((572, 210), (588, 215), width=12, fill=RED)
    paper.oval(620, 190, 7, 8, fill=SKIN)
    paper.oval(622, 178, 9, 9, fill=WOOD)
    for x, y in ((619, 176), (625, 176), (622, 182)):
        paper.oval(x, y, 1, 1, fill=BROWN, width=1)
    paper.oval(554, 170, 22, 23, fill=SKIN)
    paper.shape(*bent((534, 162), (548, 152), (566, 152)), *bent((566, 152), (570, 168), (576, 176)),
                *bent((576, 176), (586, 148), (560, 143)), *bent((560, 143), (534, 140), (534, 162)), fill=BROWN)  # fmt: skip
    paper.eye(542, 168)
    paper.eye(554, 168)
    paper.line((538, 160), (544, 159))
    paper.line((551, 159), (557, 160))
    paper.oval(547, 182, 5, 5, fill=WHITE)


def girl(paper: Paper) -> None:
    """Draw the girl who waits with one arm stretched up for her share."""
    for x in (404, 424):
        paper.limb((x, 384), (x, 424), width=8, fill=SKIN)
        paper.oval(x + 5, 430, 12, 6, fill=BLACK)
    for side in (-1, 1):
        paper.oval(414 + 25 * side, 262, 9, 15, fill=YELLOW)
    paper.limb((414, 280), (414, 296), width=9, fill=SKIN)
    paper.shape((398, 294), (430, 294), (434, 334), (450, 390), (380, 390), (396, 334), fill=YELLOW)
    paper.line((396, 336), (434, 336), width=3)
    paper.limb((428, 300), (450, 270), (466, 232), width=9, fill=SKIN)
    paper.limb((428, 300), (438, 286), width=11, fill=YELLOW)
    paper.oval(469, 222, 7, 8, fill=SKIN)
    for end in ((463, 210), (470, 207), (477, 211)):
        paper.limb((471, 219), end, width=1.5, fill=SKIN)
    paper.oval(414, 254, 23, 24, fill=SKIN)
    paper.shape(*bent((391, 254), (398, 240), (414, 236)), *bent((414, 236), (430, 240), (437, 254)),
                *bent((437, 254), (438, 226), (414, 227)), *bent((414, 227), (390, 226), (391, 254)), fill=YELLOW)  # fmt: skip
    paper.eye(410, 252)
    paper.eye(423, 252)
    paper.curve((408, 263), (417, 272), (425, 262))
    paper.limb((400, 300), (380, 322), (398, 336), width=9, fill=SKIN)
    paper.limb((400, 300), (391, 310), width=11, fill=YELLOW)
    paper.oval(402, 338, 7, 7, fill=SKIN)


def cat(paper: Paper) -> None:
    """Draw the cat that sits and watches the puddle."""
    paper.limb(*bent((338, 440), (372, 448), (362, 410)), width=6, fill=GREY)
    paper.shape(*bent((300, 448), (296, 404), (318, 396)), *bent((318, 396), (350, 404), (346, 448)), fill=GREY)
    paper.oval(332, 442, 13, 8, fill=GREY)
    for x in (303, 314):
        paper.limb((x + 3, 420), (x, 445), width=6, fill=GREY)
    paper.shape((292, 388), (291, 366), (305, 378), fill=GREY)
    paper.shape((311, 378), (324, 366), (324, 388), fill=GREY)
    paper.oval(308, 391, 18, 15, fill=GREY)
    paper.eye(300, 388)
    paper.eye(312, 388)
    paper.shape((303, 395), (309, 395), (306, 398), fill=RED)
    for y in (394, 399):
        paper.line((296, 396), (280, y), width=1)
        paper.line((316, 396), (334, y), width=1)


def draw() -> Image.Image:
    """The picture: RGB, 640 x 480."""
    paper = Paper()
    room(paper)
    window(paper)
    counter(paper)
    sink(paper)
    adult(paper)
    shelf(paper)
    stool(paper, (590, 432), 12)
    boy(paper)
    girl(paper)
    cat(paper)
    return paper.image.resize(SIZE, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    draw().quantize(64).save(target, optimize=True)
