"""The faces of the signs: frames and pictograms, drawn flat and weathered. Owns no scene and no camera."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]
Rng = np.random.Generator

FACE_PX = 192  # side of a face before it is placed: above the largest sign in a scene's final pixels
EDGE = 0.96  # sign radius over half the face: leaves a transparent rim, so that edges resample smoothly
_PAINT: dict[str, Colour] = {
    "white": (236, 236, 232), "black": (28, 28, 32), "red": (190, 28, 40), "blue": (22, 84, 168),
    "yellow": (244, 188, 24), "grey": (130, 132, 136), "amber": (240, 160, 20), "green": (30, 150, 70),
}  # fmt: skip


@dataclass(frozen=True)
class _Pen:
    """Draws in sign coordinates: x to the right, y down, the sign's edge at distance 1 from (0, 0)."""

    draw: ImageDraw.ImageDraw
    paint: dict[str, Colour]
    x: float = FACE_PX / 2  # px
    y: float = FACE_PX / 2  # px
    unit: float = FACE_PX / 2 * EDGE  # px

    def within(self, x: float, y: float, scale: float) -> "_Pen":
        """A pen whose origin is at (x, y) and whose unit is `scale` of this one's."""
        return replace(self, x=self.x + x * self.unit, y=self.y + y * self.unit, unit=self.unit * scale)

    def px(self, points: Sequence[Point]) -> list[Point]:
        return [(self.x + x * self.unit, self.y + y * self.unit) for x, y in points]

    def disc(self, colour: str, radius: float, x: float = 0.0, y: float = 0.0) -> None:
        r = radius * self.unit - 0.5  # an ellipse's box includes its last pixel
        ((cx, cy),) = self.px([(x, y)])
        self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=self.paint[colour])

    def stroke(self, colour: str, width: float, *points: Point) -> None:
        """A line with round joints and ends."""
        width_px = max(1, round(width * self.unit))
        self.draw.line(self.px(points), fill=self.paint[colour], width=width_px, joint="curve")
        for x, y in points:
            self.disc(colour, width / 2, x, y)

    def polygon(self, colour: str, points: Sequence[Point], rounding: float = 0.0) -> None:
        """A filled polygon, grown by the radius `rounding`."""
        self.draw.polygon(self.px(points), fill=self.paint[colour])
        if rounding:
            self.stroke(colour, 2 * rounding, *points, points[0])

    def arrow(self, colour: str, width: float, *points: Point) -> None:
        """A line whose last point is the tip of an arrow head."""
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length * 1.5 * width, (y1 - y0) / length * 1.5 * width
        neck = (x1 - ux, y1 - uy)
        self.stroke(colour, width, *points[:-1], neck)
        self.polygon(colour, [(x1, y1), (neck[0] - uy, neck[1] + ux), (neck[0] + uy, neck[1] - ux)], width / 8)

    def text(self, colour: str, words: str, height: float, boldness: float = 0.05) -> None:
        """Centred text, `height` the size of its type."""
        font = _font(round(height * self.unit))
        stroke_px = round(boldness * self.unit)
        left, top, right, bottom = self.draw.textbbox((0, 0), words, font=font, stroke_width=stroke_px)
        corner = (self.x - (left + right) / 2, self.y - (top + bottom) / 2)
        self.draw.text(corner, words, self.paint[colour], font, stroke_width=stroke_px)


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _arc(radius: float, start_deg: float, end_deg: float, steps: int = 10) -> list[Point]:
    angles = [math.radians(start_deg + (end_deg - start_deg) * i / steps) for i in range(steps + 1)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


# Pictograms: drawn in about -1..1, for the pen that a frame gives them.


def _exclamation(pen: _Pen) -> None:
    pen.polygon("black", [(-0.2, -0.95), (0.2, -0.95), (0.1, 0.3), (-0.1, 0.3)], 0.06)
    pen.disc("black", 0.22, 0, 0.75)


def _bend(pen: _Pen, side: int) -> None:
    pen.arrow("black", 0.3, (-0.35 * side, 0.95), (-0.35 * side, 0.2), (0.3 * side, -0.3), (0.3 * side, -1.1))


def _walker(pen: _Pen) -> None:
    pen.disc("black", 0.2, 0.05, -0.85)
    pen.stroke("black", 0.32, (0, -0.45), (0, 0.1))
    pen.stroke("black", 0.18, (-0.5, 0.1), (-0.3, -0.3), (0, -0.45), (0.35, -0.15), (0.55, -0.1))
    pen.stroke("black", 0.2, (-0.55, 0.95), (-0.25, 0.55), (0, 0.1), (0.25, 0.5), (0.45, 0.95))


def _two_walkers(pen: _Pen) -> None:
    _walker(pen.within(-0.5, 0.1, 0.85))
    _walker(pen.within(0.5, 0.25, 0.7))


def _bumps(pen: _Pen) -> None:
    wave = [(x / 10 - 1.1, 0.35 - 0.75 * abs(math.sin(math.pi * x / 11))) for x in range(23)]
    pen.polygon("black", [*wave, (1.1, 0.65), (-1.1, 0.65)], 0.04)


def _lights(pen: _Pen) -> None:
    pen.polygon("black", [(-0.2, -0.75), (0.2, -0.75), (0.2, 0.75), (-0.2, 0.75)], 0.22)
    for y, colour in ((-0.62, "red"), (0.0, "amber"), (0.62, "green")):
        pen.disc(colour, 0.27, 0, y)


def _snowflake(pen: _Pen) -> None:
    for x, y in _arc(1.0, 30, 330, 5):
        pen.stroke("black", 0.13, (0, 0), (x, y))
        for turn in (-0.35, 0.35):
            pen.stroke("black", 0.11, (0.55 * x, 0.55 * y), (0.85 * x - turn * y, 0.85 * y + turn * x))


def _deer(pen: _Pen) -> None:
    pen.polygon("black", [(-0.35, -0.2), (0.6, 0.05), (0.75, 0.2), (0.6, 0.35), (-0.3, 0.2)], 0.1)
    pen.stroke("black", 0.24, (-0.3, 0), (-0.6, -0.5), (-0.9, -0.4))
    for leg in ([(-0.3, 0.2), (-0.75, 0.4), (-0.6, 0.75)], [(-0.2, 0.2), (-0.35, 0.65), (-0.15, 0.95)],
                [(0.6, 0.2), (0.75, 0.6), (1.1, 0.9)], [(0.5, 0.2), (0.55, 0.65), (0.8, 1.0)]):  # fmt: skip
        pen.stroke("black", 0.12, *leg)
    pen.stroke("black", 0.09, (-0.6, -0.55), (-0.45, -0.8), (-0.65, -1.1))
    pen.stroke("black", 0.09, (-0.45, -0.8), (-0.2, -1.05))


def _digger(pen: _Pen) -> None:
    pen.disc("black", 0.2, -0.2, -0.8)
    pen.stroke("black", 0.3, (-0.3, -0.45), (-0.6, 0.1))
    pen.stroke("black", 0.17, (-0.25, -0.45), (0.0, -0.1), (0.2, -0.2))
    pen.stroke("black", 0.2, (-0.95, 0.9), (-0.6, 0.15), (-0.2, 0.45), (-0.35, 0.9))
    pen.stroke("black", 0.09, (-0.35, -0.15), (0.55, 0.6))
    pen.polygon("black", [(0.25, 0.9), (0.75, 0.25), (1.2, 0.9)], 0.06)


def _car(pen: _Pen, colour: str) -> None:
    pen.polygon(colour, [(-0.5, -0.1), (-0.3, -0.6), (0.3, -0.6), (0.5, -0.1)], 0.12)
    pen.polygon(colour, [(-0.7, 0), (0.7, 0), (0.7, 0.35), (-0.7, 0.35)], 0.15)
    for x in (-0.6, 0.6):
        pen.stroke(colour, 0.3, (x, 0.4), (x, 0.6))


def _skid(pen: _Pen) -> None:
    _car(pen.within(0.05, -0.5, 0.62), "black")
    for x in (-0.4, 0.4):
        pen.stroke("black", 0.15, *((x + 0.2 * math.sin(0.9 * i), 0.05 + i * 0.12) for i in range(9)))


def _bicycle(pen: _Pen) -> None:
    for x in (-0.62, 0.62):
        pen.disc("black", 0.47, x, 0.35)
        pen.disc("white", 0.32, x, 0.35)
    pen.stroke("black", 0.12, (-0.62, 0.35), (-0.25, -0.25), (0.4, -0.25), (0.05, 0.35), (-0.25, -0.25))
    pen.stroke("black", 0.12, (0.62, 0.35), (0.35, -0.6), (0.6, -0.65))
    pen.stroke("black", 0.14, (0.05, 0.35), (-0.62, 0.35))
    pen.stroke("black", 0.14, (-0.45, -0.4), (-0.1, -0.4))


def _crossing(pen: _Pen) -> None:
    for x in (-0.7, 0.7):
        pen.stroke("black", 0.3, (x, -0.65), (-x, 0.75))


# Faces: a frame, and what is in it.


def _speed(pen: _Pen, number: int) -> None:
    _ring(pen)
    pen.text("black", str(number), 0.98 if number < 100 else 0.76, 0.045)


def _ring(pen: _Pen) -> None:
    for colour, radius in (("white", 1.0), ("red", 0.96), ("white", 0.7)):
        pen.disc(colour, radius)


def _no_overtaking(pen: _Pen) -> None:
    _ring(pen)
    _car(pen.within(-0.32, 0, 0.33), "red")
    _car(pen.within(0.32, 0, 0.33), "black")


def _end(pen: _Pen, number: int | None) -> None:
    for colour, radius in (("grey", 1.0), ("white", 0.94)):
        pen.disc(colour, radius)
    if number:
        pen.text("grey", str(number), 1.05)
    for shift in (-0.2, -0.1, 0.0, 0.1, 0.2):
        reach = math.sqrt(0.88**2 / 2 - shift**2)  # the stripe ends on the circle of radius 0.88
        pen.stroke("black", 0.05, (shift - reach, shift + reach), (shift + reach, shift - reach))


def _warning(pen: _Pen, pictogram: Callable[[_Pen], None]) -> None:
    corners = [(0.0, -0.8), (0.88, 0.7), (-0.88, 0.7)]
    for colour, rounding in (("white", 0.12), ("red", 0.09)):
        pen.polygon(colour, corners, rounding)
    pen.polygon("white", [(0.0, -0.52), (0.64, 0.58), (-0.64, 0.58)], 0.06)
    pictogram(pen.within(0, 0.19, 0.4))


def _yield(pen: _Pen) -> None:
    for colour, size, rounding in (("white", 0.88, 0.12), ("red", 0.88, 0.09), ("white", 0.52, 0.03)):
        pen.polygon(colour, [(-size, -0.8 * size), (size, -0.8 * size), (0, 0.9 * size)], rounding)


def _stop(pen: _Pen) -> None:
    for colour, radius in (("white", 1.02), ("red", 0.94)):
        pen.polygon(colour, _arc(radius, 22.5, 337.5, 7))
    pen.text("white", "STOP", 0.64, 0.035)


def _no_entry(pen: _Pen) -> None:
    for colour, radius in (("white", 1.0), ("red", 0.96)):
        pen.disc(colour, radius)
    pen.polygon("white", [(-0.7, -0.17), (0.7, -0.17), (0.7, 0.17), (-0.7, 0.17)], 0.02)


def _priority(pen: _Pen) -> None:
    for colour, size, rounding in (("white", 0.88, 0.11), ("black", 0.66, 0.06), ("yellow", 0.62, 0.05)):
        pen.polygon(colour, [(0, -size), (size, 0), (0, size), (-size, 0)], rounding)


def _mandatory(pen: _Pen, *arrows: Sequence[Point]) -> None:
    for colour, radius in (("white", 1.0), ("blue", 0.95)):
        pen.disc(colour, radius)
    for arrow in arrows:
        pen.arrow("white", 0.24, *arrow)


_AHEAD = [(0.0, 0.7), (0.0, -0.75)]
_TURN = [(-0.3, 0.7), (-0.3, -0.1), (0.72, -0.1)]
_BRANCH = [(-0.25, 0.7), (-0.25, -0.75)], [(-0.25, 0.3), (0.68, 0.1)]
_KEEP = [(-0.5, -0.5), (0.52, 0.52)]
_ROUND = [[*_arc(0.55, start, start + 45), _arc(0.62, start, start + 85, 1)[1]] for start in (-80, 40, 160)]


def _mirror(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


_FACES: dict[str, Callable[[_Pen], None]] = {
    **{f"speed-{n}": functools.partial(_speed, number=n) for n in (20, 30, 50, 60, 70, 80, 100, 120)},
    "end-speed-80": functools.partial(_end, number=80),
    "end-all": functools.partial(_end, number=None),
    "no-vehicles": _ring,
    "no-overtaking": _no_overtaking,
    "no-entry": _no_entry,
    "stop": _stop,
    "yield": _yield,
    "priority-road": _priority,
    "danger": functools.partial(_warning, pictogram=_exclamation),
    "bend-left": functools.partial(_warning, pictogram=functools.partial(_bend, side=-1)),
    "bend-right": functools.partial(_warning, pictogram=functools.partial(_bend, side=1)),
    "bumps": functools.partial(_warning, pictogram=_bumps),
    "slippery": functools.partial(_warning, pictogram=_skid),
    "roadworks": functools.partial(_warning, pictogram=_digger),
    "traffic-lights": functools.partial(_warning, pictogram=_lights),
    "pedestrians": functools.partial(_warning, pictogram=_walker),
    "children": functools.partial(_warning, pictogram=_two_walkers),
    "bicycles": functools.partial(_warning, pictogram=_bicycle),
    "snow": functools.partial(_warning, pictogram=_snowflake),
    "deer": functools.partial(_warning, pictogram=_deer),
    "crossroads": functools.partial(_warning, pictogram=_crossing),
    "ahead": lambda pen: _mandatory(pen, _AHEAD),
    "turn-right": lambda pen: _mandatory(pen, _TURN),
    "turn-left": lambda pen: _mandatory(pen, _mirror(_TURN)),
    "ahead-or-right": lambda pen: _mandatory(pen, *_BRANCH),
    "ahead-or-left": lambda pen: _mandatory(pen, *map(_mirror, _BRANCH)),
    "keep-right": lambda pen: _mandatory(pen, _KEEP),
    "keep-left": lambda pen: _mandatory(pen, _mirror(_KEEP)),
    "roundabout": lambda pen: _mandatory(pen, *_ROUND),
}
LABELS: tuple[str, ...] = tuple(_FACES)
"""What the signs say: slugs, in a fixed order."""


def paint_face(rng: Rng, label: str) -> Image.Image:
    """RGBA, weathered: each paint a little off its colour, and all of them faded towards grey."""
    fade = rng.uniform(0, 0.3)
    paint: dict[str, Colour] = {}
    for name, colour in _PAINT.items():
        r, g, b = np.clip(np.array(colour) * (1 - fade) + 150 * fade + rng.normal(0, 4, 3), 0, 255).astype(int).tolist()
        paint[name] = (r, g, b)
    face = Image.new("RGBA", (FACE_PX, FACE_PX))
    _FACES[label](_Pen(ImageDraw.Draw(face), paint))
    return face
