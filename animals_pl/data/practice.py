"""The built-in practice set: drawn animals in Animals-10's folder layout, for a first run without a download."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter
from rich.console import Console
from rich.progress import track

from animals_pl.data.catalog import ANIMALS10, ANIMALS10_COUNTS
from animals_pl.errors import UsageError

Rng = np.random.Generator

Colour = tuple[int, ...]
"""Red, green and blue from 0 to 255, and optionally how opaque."""

Path2D = str | Sequence[Sequence[float]]
"""Points of an outline or joints of a limb, as numbers or as ``"x,y x,y"``."""

SUPERSAMPLE = 3
"""Pictures are drawn this much larger and then reduced, which smooths every edge."""

FEWEST_PER_CLASS = 2
"""So that every class can be both learnt and validated."""


def _palette(codes: str) -> tuple[Colour, ...]:
    """Return the colours of hex codes with spaces between them."""
    return tuple(ImageColor.getrgb(code) for code in codes.split())


# One palette for all classes: whoever looks only at colours must not be able to tell them apart.
FURS = _palette("#4e484c #706868 #969498 #8898a8 #eee8de #e2ceaa #ceaa7a #de964c #c0683e #a0704c #7a523c #e8be60")
ACCENTS = _palette("#ce3c3a #f08830 #f6cc4c #589e5c #428cc4 #7a60b2 #e880a0")
INK: Colour = (46, 36, 38)
WHITE: Colour = (252, 250, 244)
PINK: Colour = (236, 164, 160)
RED: Colour = (208, 62, 58)
HORN: Colour = (240, 226, 190)
BEAK: Colour = (240, 168, 56)
SHADE: Colour = (30, 30, 40, 70)

# Upper and lower sky, far and near ground.
LANDSCAPES = (
    _palette("#80beec #daeef6 #7eb06c #94c468"),
    _palette("#96cee2 #f6f0dc #68b0be #ecd6a4"),
    _palette("#f8b284 #fce0b2 #9e7e8a #be9c80"),
    _palette("#b0c2d6 #e4eaf2 #b8c8d6 #f0f4f8"),
    _palette("#8e86bc #e8b8c6 #6a7a8e #7a9680"),
    _palette("#c4debe #e8f0ce #749670 #b09a70"),
)


def tone(colour: Colour, amount: float) -> Colour:
    """Return the colour moved towards black (``amount`` from -1) or towards white (up to 1)."""
    goal = 255 if amount > 0 else 0
    return tuple(round(c + (goal - c) * abs(amount)) for c in colour[:3])


def _pick(options: Sequence[Colour], rng: Rng) -> Colour:
    """Return one of the colours, a little lighter or darker and hardly off in hue."""
    chosen = np.array(options[int(rng.integers(len(options)))]) + rng.integers(-16, 17) + rng.integers(-5, 6, 3)
    return tuple(np.clip(chosen, 0, 255).tolist())


@dataclass(frozen=True)
class Coat:
    """The colours that one animal is drawn in."""

    fur: Colour
    dark: Colour
    light: Colour
    accent: Colour

    @classmethod
    def choose(cls, rng: Rng) -> Coat:
        """Return a random coat; the same coats befit every class."""
        fur = _pick(FURS, rng)
        return cls(fur, tone(fur, -0.32), tone(fur, 0.5), _pick(ACCENTS, rng))


def _knots(path: Path2D) -> np.ndarray:
    """Return a path's points as rows; a string holds them as ``"x,y x,y"``."""
    points = [[float(v) for v in point.split(",")] for point in path.split()] if isinstance(path, str) else path
    return np.array(points, dtype=float)


def _curve(knots: np.ndarray, closed: bool, steps: int = 6) -> np.ndarray:
    """Return points along a Catmull-Rom spline through the knots, of any dimension."""
    ends = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    padded = np.concatenate([ends[0], knots, ends[1]])
    before, start, stop, after = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    bend = 2 * before - 5 * start + 4 * stop - after + t * (3 * (start - stop) + after - before)
    points = (start + 0.5 * t * (stop - before + t * bend)).reshape(-1, knots.shape[1])
    return points if closed else np.concatenate([points, knots[-1:]])


class Pen:
    """Draws in an animal's own frame: it looks right, x and y run from -100 to 100, y down, feet near 88.

    Shapes are collected until ``ink`` lays them on the canvas under one common outline, so
    parts inked together melt into one body and parts inked later stand out before it.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, matrix: np.ndarray, origin: np.ndarray) -> None:
        """Keep the canvas and the pose: a frame's point p lies at ``origin + matrix @ p``."""
        self._draw = draw
        self._matrix = matrix
        self._origin = origin
        self._unit = math.sqrt(abs(np.linalg.det(matrix)))
        self._rim = 2.6 * self._unit
        self._shapes: list[tuple[np.ndarray, np.ndarray | None, Colour]] = []

    def at(self, x: float, y: float, turn: float = 0.0, across: float = 1.0, down: float = 1.0) -> Pen:
        """Return a pen for the same drawing whose frame is moved, turned clockwise (radians) and stretched."""
        matrix = self._matrix @ _rotation(turn) @ np.diag([across, down])
        pen = Pen(self._draw, matrix, self._origin + self._matrix @ np.array([x, y]))
        pen._rim, pen._shapes = self._rim, self._shapes
        return pen

    def mirrored(self) -> tuple[Pen, Pen]:
        """Return this pen and its mirror image, for things that come in pairs."""
        return self.at(0, 0, across=-1), self

    def blob(self, path: Path2D, colour: Colour, smooth: bool = True) -> None:
        """Add a filled shape, rounded through its corners or straight between them."""
        corners = _knots(path)
        self._add(_curve(corners, closed=True) if smooth else corners, None, colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0) -> None:
        """Add an ellipse, turned clockwise by ``turn`` radians."""
        angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        self._add(np.stack([rx * np.cos(angle), ry * np.sin(angle)], 1) @ _rotation(turn).T + (x, y), None, colour)

    def tube(self, path: Path2D, colour: Colour) -> None:
        """Add a bent limb through joints ``"x,y,radius"`` with round ends."""
        joints = _curve(_knots(path), closed=False)
        self._add(joints[:, :2], np.maximum(joints[:, 2], 0.4), colour)

    def ink(self, outlined: bool = True) -> None:
        """Lay the collected shapes on the canvas: first their common outline, then their colours."""
        for points, radii, _ in self._shapes if outlined else ():
            if radii is None:
                self._stroke(np.concatenate([points, points[:1]]), np.full(len(points) + 1, self._rim), INK)
            else:
                self._stroke(points, radii + self._rim, INK)
        for points, radii, colour in self._shapes:
            if radii is None:
                self._draw.polygon(points.ravel().tolist(), fill=colour)
            else:
                self._stroke(points, radii, colour)
        self._shapes.clear()

    def _add(self, points: np.ndarray, radii: np.ndarray | None, colour: Colour) -> None:
        placed = points @ self._matrix.T + self._origin
        self._shapes.append((placed, None if radii is None else radii * self._unit, colour))

    def _stroke(self, points: np.ndarray, radii: np.ndarray, colour: Colour) -> None:
        widths = np.maximum(1, np.round(2 * radii)).astype(int).tolist()
        for box in np.concatenate([points - radii[:, None], points + radii[:, None]], 1).tolist():
            self._draw.ellipse(box, fill=colour)
        for segment, width in zip(np.concatenate([points[:-1], points[1:]], 1).tolist(), widths, strict=False):
            self._draw.line(segment, fill=colour, width=width)


def _rotation(angle: float) -> np.ndarray:
    """Return the matrix that turns clockwise (y points down) by the angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _eye(pen: Pen, x: float, y: float, size: float = 5.5) -> None:
    """Draw an eye that shows on light and on dark fur."""
    pen.oval(x, y, size, size, WHITE)
    pen.ink()
    pen.oval(x + 0.2 * size, y, 0.7 * size, 0.8 * size, INK)
    pen.oval(x + 0.35 * size, y - 0.3 * size, 0.25 * size, 0.25 * size, WHITE)
    pen.ink(outlined=False)


def _shadow(pen: Pen, x: float, width: float) -> None:
    """Draw the shadow that an animal casts on the ground."""
    pen.oval(x, 88, width, 9, SHADE)
    pen.ink(outlined=False)


def _legs(pen: Pen, rng: Rng, hips: Sequence[float], top: float, width: float, colour: Colour, foot: Colour) -> None:
    """Add one leg per hip down to the ground, each at its own point of the stride."""
    for x in hips:
        step = x + rng.uniform(-12, 12)
        knee = ((x + step) / 2 + 3, (top + 88) / 2, width)
        pen.tube([(x, top, 1.5 * width), knee, (step, 80, 0.9 * width)], colour)
        pen.oval(step + 0.25 * width, 85, 1.3 * width, 6, foot)


def _walker(pen: Pen, rng: Rng, coat: Coat, spine: str, leg_width: float, foot: Colour) -> None:
    """Draw far legs, then add the body along its spine (hindmost joint first) and the near legs."""
    joints = _knots(spine)
    back, front, hip = joints[0, 0], joints[-1, 0], joints[:, 1].mean() + 10
    _shadow(pen, (back + front) / 2, 75)
    _legs(pen, rng, (back + 13, front - 10), hip, leg_width, coat.dark, tone(foot, -0.3))
    pen.ink()
    _legs(pen, rng, (back - 4, front + 6), hip, leg_width, coat.fur, foot)
    pen.tube(spine, coat.fur)


def _dog(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Floppy ear, long snout with tongue, collar, wagging tail."""
    pen.at(-52, 2, rng.uniform(-0.35, 0.35)).tube("0,0,10 -20,-22,8 -28,-62,5", coat.fur)
    _walker(pen, rng, coat, "-48,8,22 -5,6,22 30,2,26", 8.5, coat.light)
    pen.tube("32,-10,20 46,-40,17", coat.fur)
    pen.ink()
    pen.tube("24,-24,4 42,-16,4.5 60,-20,4", coat.accent)
    pen.ink()
    head = pen.at(48, -48, rng.uniform(-0.25, 0.25))
    head.tube("26,18,5 29,34,5.5", PINK)
    head.ink()
    head.tube("2,-4,25 20,4,17 40,8,12", coat.fur)
    head.ink()
    head.tube("30,10,8 42,10,8", coat.light)
    head.oval(49, 1, 6.5, 5.5, INK)
    head.ink(outlined=False)
    head.blob("-8,-24 4,-20 4,8 -6,30 -18,28 -22,3", coat.dark)
    head.ink()
    _eye(head, 16, -8)


def _horse(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Long neck with a mane, long head, long legs, long hanging tail."""
    mane = tone(coat.fur, 0.65) if sum(coat.fur) < 330 else tone(coat.fur, -0.6)
    pen.at(-55, -15, rng.uniform(-0.15, 0.3)).tube("0,0,7 -23,15,10 -25,50,10 -33,75,3", mane)
    pen.ink()
    _walker(pen, rng, coat, "-45,-2,22 -10,3,20 25,0,22", 6, INK)
    neck = pen.at(30, -8, rng.uniform(-0.15, 0.3))
    neck.tube("0,0,22 15,-34,15 32,-64,12", coat.fur)
    neck.tube("32,-64,13 48,-46,10 62,-28,8.5", coat.fur)
    neck.blob("26,-72 31,-92 40,-72", coat.fur, smooth=False)
    neck.ink()
    for step in range(6):
        lock = neck.at(-14 + 9.2 * step, -12 - 11.6 * step)
        lock.tube("3,0,6 -8,8,6 -12,20,2", mane)
    neck.tube("30,-72,5 40,-60,3", mane)
    neck.ink()
    neck.oval(65, -31, 2.5, 2, INK)
    neck.ink(outlined=False)
    _eye(neck, 42, -60, 4)


def _elephant(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Huge body on pillars, fan-like ear, trunk and tusk."""
    pen.tube("-70,-10,3 -86,10,2.5 -84,35,4.5", coat.dark)
    pen.ink()
    _walker(pen, rng, coat, "-40,-8,40 -10,-12,44 12,-8,40", 14, HORN)
    pen.ink()
    pen.oval(50, -32, 30, 30, coat.fur)
    pen.at(70, -20, rng.uniform(-0.6, 0.1)).tube("0,0,17 16,34,12 14,62,9 26,78,7", coat.fur)
    pen.ink()
    pen.tube("64,2,5.5 76,22,4.5 94,26,1.2", WHITE)
    pen.ink()
    ear = pen.at(40, -30, rng.uniform(-0.15, 0.25), across=rng.uniform(0.8, 1.1))
    ear.blob("0,-30 -26,-42 -50,-20 -50,20 -32,48 -14,40 2,10", coat.dark)
    ear.ink()
    ear.blob("-8,-20 -28,-30 -42,-12 -40,16 -30,34 -18,30", tone(coat.dark, 0.22))
    ear.ink(outlined=False)
    _eye(pen, 62, -36, 4.5)


def _butterfly(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Four patterned wings seen from above, thin body, two antennae."""
    spread, droop = rng.uniform(0.75, 1.0), rng.uniform(-0.2, 0.15)
    for wing in pen.at(0, 0, across=spread).mirrored():
        for x, y, path in (
            (40, 36, "-36,-34 10,-32 34,-6 20,38 -8,42 -28,14"),
            (56, -34, "-52,22 -26,-26 16,-48 40,-28 30,22 -6,48 -46,46"),
        ):
            for size, colour in ((1.0, coat.dark), (0.8, coat.fur), (0.45, coat.accent)):
                wing.at(x, y, droop, size, size).blob(path, colour)
                wing.ink(outlined=size == 1.0)
            for dot_x, dot_y in ((27, -24), (30, -6), (22, 14)):
                wing.at(x, y, droop).oval(dot_x * x / 56, dot_y, 4.5, 4.5, WHITE)
            wing.ink(outlined=False)
        wing.tube("0,-40,1.2 12,-68,1.2 28,-86,1.2", INK)
        wing.oval(28, -86, 4, 4, INK)
    pen.tube("0,-38,8 0,-10,7.5 0,50,3.5", tone(coat.dark, -0.4))
    pen.ink()


def _chicken(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Boat-shaped body on two thin legs, tail feathers, comb, beak and wattle."""
    _shadow(pen, 0, 50)
    for x in (-12, 12):
        leg = pen.at(x, 40, rng.uniform(-0.2, 0.2))
        leg.tube("0,0,4.5 0,44,3.5", BEAK)
        for toe in ("-10,48,2.2", "6,49,2.2", "18,48,2.2"):
            leg.tube(f"0,42,3 {toe}", BEAK)
    pen.ink()
    fan = rng.uniform(-0.2, 0.2)
    for turn in (-0.1, 0.22, 0.5, 0.8):
        pen.at(-40, 8, turn + fan).tube("0,0,10 -30,-10,11 -52,-20,7", coat.dark)
        pen.ink()
    neck = pen.at(20, 5, rng.uniform(-0.15, 0.3))
    for x, y in ((25, -77), (35, -83), (45, -78)):
        neck.oval(x, y, 7.5, 10, RED)
    neck.oval(49, -33, 6, 11, RED)
    neck.blob("49,-66 75,-53 49,-45", BEAK, smooth=False)
    neck.ink()
    neck.tube("35,-57,19 16,-21,22 0,5,28", coat.fur)
    pen.blob("-62,-12 -30,0 10,-10 48,0 42,34 10,54 -30,46 -58,20", coat.fur)
    pen.ink()
    pen.at(20, 8, rng.uniform(-0.2, 0.2)).blob("0,0 -20,-8 -48,-4 -72,12 -46,26 -12,24", coat.light)
    pen.ink()
    _eye(neck, 41, -59, 4.5)


def _cat(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Sitting upright: pointed ears, whiskers, slit eyes, long curling tail."""
    _shadow(pen, -5, 60)
    tail = pen.at(-25, 74, rng.uniform(-0.25, 0.2))
    tail.tube("0,0,9 -47,-4,9 -61,-44,8.5 -41,-74,7.5 -55,-98,6", coat.dark)
    pen.ink()
    pen.blob("5,-30 30,0 38,50 34,86 -30,88 -46,62 -36,22 -16,-8", coat.fur)
    pen.ink()
    pen.oval(10, 20, 15, 26, coat.light)
    pen.ink(outlined=False)
    for x in (2, 24):
        pen.tube([(x, 40, 8), (x, 80, 8)], coat.fur)
        pen.oval(x + 2, 84, 11, 7, coat.light)
        pen.ink()
    head = pen.at(10 + rng.uniform(-8, 8), -40, rng.uniform(-0.25, 0.25))
    for half in head.mirrored():
        half.blob("34,-5 36,-52 6,-24", coat.fur, smooth=False)
    head.oval(0, 0, 39, 31, coat.fur)
    head.ink()
    for half in head.mirrored():
        half.blob("29,-18 31,-40 16,-25", PINK, smooth=False)
        half.oval(8, 14, 11, 8.5, coat.light)
        half.tube("16,12,0.8 56,5,0.8", INK)
        half.tube("16,13,0.8 56,16,0.8", INK)
        half.tube("12,-28,2.5 8,-17,1.2", coat.dark)
    head.tube("0,-29,2.5 0,-17,1.2", coat.dark)
    head.ink(outlined=False)
    for half in head.mirrored():
        half.oval(17, -3, 8.5, 8, BEAK)
        half.ink()
        half.oval(17, -3, 3, 7, INK)
    head.blob("-5,7 5,7 0,13", PINK, smooth=False)
    head.ink(outlined=False)


def _cow(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Boxy patched body with udder, horned head with a broad muzzle, tufted tail."""
    patch = tone(coat.fur, 0.75) if sum(coat.fur) < 460 else tone(coat.fur, -0.65)
    tail = pen.at(-72, -25, rng.uniform(-0.1, 0.5))
    tail.tube("0,0,3.5 -12,30,3 -10,60,3", coat.fur)
    tail.oval(-10, 67, 7, 12, patch)
    pen.oval(-22, 38, 17, 14, PINK)
    pen.ink()
    _walker(pen, rng, coat, "-46,-2,32 -10,0,32 22,-2,32", 9, INK)
    pen.ink()
    for x, y in ((-50, -10), (-2, 0), (28, -14)):
        angles = np.linspace(0, 2 * math.pi, 7, endpoint=False)
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(10, 19, (7, 1))
        pen.at(x, y).blob(corners.tolist(), patch)
    pen.ink(outlined=False)
    head = pen.at(62, -34 + rng.uniform(-8, 22), rng.uniform(-0.25, 0.25))
    for half in head.mirrored():
        half.tube("14,-20,5.5 30,-30,4.5 28,-48,1.2", HORN)
        half.oval(30, -10, 14, 7, coat.dark, 0.3)
    head.ink()
    head.blob("-22,-20 0,-26 22,-20 18,20 0,36 -18,20", coat.fur)
    head.ink()
    head.blob("-6,-24 6,-24 4,10 -4,10", patch)
    head.ink(outlined=False)
    head.oval(0, 26, 24, 16, PINK)
    head.ink()
    for half in head.mirrored():
        half.oval(9, 25, 3.5, 4.5, INK)
    head.ink(outlined=False)
    for x in (-13, 13):
        _eye(head, x, -4, 5)


def _sheep(pen: Pen, coat: Coat, rng: Rng) -> None:
    """A cloud of wool on thin dark legs, dark narrow face with a woolly cap."""
    skin, wool = tone(coat.fur, -0.62), tone(coat.fur, 0.25)
    _shadow(pen, -5, 65)
    _legs(pen, rng, (-42, -22, 14, 34), 41, 5.5, skin, INK)
    pen.ink()
    start, puff = rng.uniform(0, 1), rng.uniform(16, 20)
    pen.oval(-10, 5, 60, 42, wool)
    for turn in np.linspace(0, 2 * math.pi, 13, endpoint=False) + start:
        pen.oval(-10 + 58 * math.cos(turn), 5 + 40 * math.sin(turn), puff, puff, wool)
    pen.ink()
    for turn in np.linspace(0, 2 * math.pi, 6, endpoint=False) + start:
        pen.at(-14 + 34 * math.cos(turn), 5 + 22 * math.sin(turn)).tube("-8,0,1.4 0,7,1.4 8,0,1.4", tone(wool, -0.2))
    pen.ink(outlined=False)
    head = pen.at(60, -22 + rng.uniform(-10, 24), rng.uniform(-0.25, 0.35))
    head.oval(-26, -6, 15, 7, skin, -0.5)
    head.ink()
    head.oval(6, 6, 20, 30, skin, -0.35)
    head.ink()
    for x, y in ((-16, -20), (-2, -27), (12, -22)):
        head.oval(x, y, 12, 11, wool)
    head.ink()
    head.oval(20, 24, 3, 2, tone(skin, -0.5))
    head.ink(outlined=False)
    _eye(head, 10, -2, 5)


def _spider(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Eight bent legs around a round abdomen and a small head, seen from above."""
    for half in pen.mirrored():
        for turn in (-0.75, -0.15, 0.4, 0.95):
            half.at(8, -12, turn + rng.uniform(-0.15, 0.15)).tube("0,0,5 46,-14,5 88,10,2.2", coat.dark)
    pen.ink()
    pen.oval(0, 26, 34, 40, coat.fur)
    pen.ink()
    for y, size in ((6, 9), (26, 12), (46, 8)):
        pen.oval(0, y, size, 0.7 * size, coat.accent)
    pen.ink(outlined=False)
    pen.oval(0, -24, 22, 21, coat.fur)
    pen.ink()
    for half in pen.mirrored():
        half.tube("7,-42,3 10,-52,1.5", INK)
        half.ink(outlined=False)
    for x in (-9, 9):
        _eye(pen, x, -32, 6)


def _squirrel(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Upright with a nut in its paws, before a huge bushy tail that curls over its back."""
    _shadow(pen, -10, 65)
    tail = pen.at(-10, 72, rng.uniform(-0.12, 0.15))
    tail.tube("0,0,10 -42,-14,20 -52,-62,26 -40,-114,27 -62,-138,17", coat.dark)
    tail.ink()
    tail.tube("-20,-6,3 -46,-26,8 -52,-66,12 -42,-108,12", coat.light)
    tail.ink(outlined=False)
    pen.blob("20,-20 40,10 42,50 30,80 -10,84 -30,64 -20,20 2,-8", coat.fur)
    pen.oval(24, 84, 26, 7, coat.fur)
    pen.ink()
    pen.oval(26, 30, 13, 30, coat.light)
    pen.ink(outlined=False)
    pen.oval(0, 60, 24, 22, coat.fur)
    pen.ink()
    head = pen.at(34, -36, rng.uniform(-0.25, 0.25))
    head.blob("-22,-14 -19,-48 -4,-16", coat.fur, smooth=False)
    head.blob("-4,-14 -1,-48 14,-16", coat.fur, smooth=False)
    head.tube("0,0,25 26,8,13", coat.fur)
    head.ink()
    head.oval(38, 4, 4, 3.5, INK)
    head.oval(14, 12, 13, 9, coat.light)
    head.ink(outlined=False)
    _eye(head, 10, -8, 6.5)
    paw = pen.at(20, 8, rng.uniform(-0.25, 0.2))
    paw.oval(42, 12, 12, 14, (150, 96, 50))
    paw.oval(42, 1, 14, 6, (104, 66, 40))
    paw.ink()
    paw.tube("0,0,8 16,16,7 36,12,6", coat.fur)
    paw.ink()


@dataclass(frozen=True)
class Sketch:
    """How to draw a class: the hand that draws it and how far it may be turned, in radians."""

    draw: Callable[[Pen, Coat, Rng], None]
    turn: float = 0.14


SKETCHES = {
    "cane": Sketch(_dog),
    "cavallo": Sketch(_horse),
    "elefante": Sketch(_elephant),
    "farfalla": Sketch(_butterfly, turn=0.4),
    "gallina": Sketch(_chicken),
    "gatto": Sketch(_cat),
    "mucca": Sketch(_cow),
    "pecora": Sketch(_sheep),
    "ragno": Sketch(_spider, turn=0.4),
    "scoiattolo": Sketch(_squirrel),
}
"""The drawing of every Animals-10 class."""


def _gradient(size: tuple[int, int], colours: Sequence[Colour]) -> Image.Image:
    """Return a picture that runs through the colours from top to bottom."""
    strip = np.array([[c] for c in colours], dtype=np.uint8)
    column = Image.fromarray(strip).resize((1, size[1]), Image.Resampling.BICUBIC)
    return column.resize(size, Image.Resampling.NEAREST)


def _landscape(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Return sky over two ridges of ground, with sun, clouds and blades of grass."""
    width, height = size
    sky, haze, far, near = (_pick([c], rng) for c in LANDSCAPES[rng.integers(len(LANDSCAPES))])
    picture = _gradient(size, (sky, haze))
    draw = ImageDraw.Draw(picture, "RGBA")
    sun_x, sun_y, sun = rng.uniform(0, width), rng.uniform(0, 0.4 * height), rng.uniform(0.04, 0.1) * width
    draw.ellipse((sun_x - sun, sun_y - sun, sun_x + sun, sun_y + sun), fill=tone(haze, 0.6))
    for _ in range(rng.integers(0, 4)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, 0.4 * height), rng.uniform(0.03, 0.07) * width
        for dx, dr in ((-1.3, 0.7), (0.0, 1.0), (1.3, 0.75)):
            draw.ellipse((x + r * (dx - dr), y - r * dr, x + r * (dx + dr), y + r * dr), fill=(255, 255, 255, 150))
    for colour, level in ((far, rng.uniform(0.45, 0.6)), (near, rng.uniform(0.62, 0.78))):
        across = np.linspace(0, 1, 40)
        ridge = level + rng.uniform(0.01, 0.06) * np.sin(across * rng.uniform(3, 9) + rng.uniform(0, 6))
        line = list(zip((across * width).tolist(), (ridge * height).tolist(), strict=True))
        draw.polygon([(0, height), *line, (width, height)], fill=colour)
    for _ in range(rng.integers(0, 40)):
        x, y, r = rng.uniform(0, width), rng.uniform(0.8, 1) * height, rng.uniform(0.01, 0.03) * height
        draw.line((x, y, x + rng.uniform(-r, r), y - 2 * r), fill=(*tone(near, -0.25), 160), width=SUPERSAMPLE)
    return picture


def _room(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Return a papered wall with pictures over a floor of boards."""
    width, height = size
    wall, floor = tone(_pick(ACCENTS, rng), rng.uniform(0.35, 0.7)), tone(_pick(FURS, rng), 0.3)
    picture = _gradient(size, (tone(wall, 0.15), wall))
    draw = ImageDraw.Draw(picture, "RGBA")
    for x in np.arange(0, width, width * rng.uniform(0.06, 0.15)).tolist():
        draw.rectangle((x, 0, x + 0.025 * width, height), fill=(255, 255, 255, int(rng.integers(20, 70))))
    for _ in range(rng.integers(0, 3)):
        x, y, r = rng.uniform(0, width), rng.uniform(0.05, 0.4) * height, rng.uniform(0.08, 0.16) * width
        draw.rectangle((x, y, x + r, y + r), fill=_pick(ACCENTS, rng), outline=tone(floor, -0.4), width=4 * SUPERSAMPLE)
    skirting = rng.uniform(0.62, 0.82) * height
    draw.rectangle((0, skirting, width, height), fill=floor)
    draw.rectangle((0, skirting, width, skirting + 0.02 * height), fill=tone(floor, -0.3))
    for x in np.arange(0, width, width * rng.uniform(0.1, 0.2)).tolist():
        draw.line((x, skirting, x + 0.4 * (x - width / 2), height), fill=(*tone(floor, -0.3), 130), width=SUPERSAMPLE)
    return picture


def _lights(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Return a soft gradient with discs of light out of focus."""
    picture = _gradient(size, [tone(_pick(ACCENTS + FURS, rng), 0.45) for _ in range(rng.integers(2, 5))])
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(rng.integers(4, 16)):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.03, 0.14) * size[0]
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*tone(_pick(ACCENTS, rng), 0.4), int(rng.integers(40, 110))))
    return picture


def _mottle(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Return blotches of one colour, like moss, gravel or a wall."""
    grid = rng.integers(6, 24, 2)
    base = np.array(tone(_pick(ACCENTS + FURS, rng), rng.uniform(0.2, 0.6)))
    blotches = base + rng.normal(0, rng.uniform(6, 20), (*grid, 1)) + rng.normal(0, 4, (*grid, 3))
    return Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


SCENES = (_landscape, _landscape, _room, _lights, _mottle)
"""The backgrounds; every class stands before each of them alike often."""


def _pose(size: tuple[int, int], turn: float, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and origin of a random pose that keeps the animal mostly inside the picture."""
    scale = rng.uniform(0.84, 1.0) * min(size) / 2
    build = np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.88, 1.05), rng.uniform(0.88, 1.05)])
    centre = np.array(size) / 2
    room = 0.9 * (centre - 0.93 * scale)
    return scale / 100 * _rotation(rng.uniform(-turn, turn)) @ build, centre + rng.uniform(-1, 1, 2) * room


def _photo_size(rng: Rng) -> tuple[int, int]:
    """Return a width and height between 120 and 340 pixels, upright or broad."""
    side, aspect = rng.uniform(150, 275), math.exp(rng.uniform(-0.3, 0.4))
    return round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))


def _photograph(picture: Image.Image, rng: Rng) -> Image.Image:
    """Return the picture with the flaws of a camera: some blur, some noise, some light."""
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    pixels = np.asarray(picture, dtype=np.float32) * rng.uniform(0.85, 1.1)
    if rng.random() < 0.4:
        pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 9)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_animal(class_name: str, rng: Rng) -> Image.Image:
    """Draw one animal in a random pose, coat, place and picture size.

    Args:
        class_name: An Italian Animals-10 class name, e.g. ``"gatto"``.
        rng: The only source of chance.

    Raises:
        UsageError: The class is none of Animals-10's.
    """
    sketch = SKETCHES.get(class_name)
    if sketch is None:
        raise UsageError(f"class_name={class_name!r} cannot be drawn; choose one of {', '.join(SKETCHES)}")
    size = _photo_size(rng)
    large = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    picture = SCENES[rng.integers(len(SCENES))](large, rng)
    pen = Pen(ImageDraw.Draw(picture, "RGBA"), *_pose(large, sketch.turn, rng))
    sketch.draw(pen, Coat.choose(rng), rng)
    return _photograph(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=1.5), rng)


def practice_counts(count: int = 1000) -> dict[str, int]:
    """Return how many pictures of each class there are in a practice set of ``count``.

    The classes keep Animals-10's proportions (largest remainders), but none has fewer than two.

    Raises:
        UsageError: ``count`` is too small for two pictures of every class.
    """
    fewest = FEWEST_PER_CLASS * len(ANIMALS10_COUNTS)
    if count < fewest:
        raise UsageError(f"count={count} is too few for {len(ANIMALS10_COUNTS)} classes; pass {fewest} or more")
    total = sum(ANIMALS10_COUNTS.values())
    counts = {name: count * full // total for name, full in ANIMALS10_COUNTS.items()}
    by_remainder = sorted(counts, key=lambda name: -(count * ANIMALS10_COUNTS[name] % total))
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    while min(counts.values()) < FEWEST_PER_CLASS:
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[min(counts, key=counts.__getitem__)] += 1
    return counts


def _pictures(count: int) -> Iterator[tuple[int, str, int]]:
    """Yield the class index, class name and number (from 1) of every picture."""
    counts = practice_counts(count)
    for class_index, name in enumerate(ANIMALS10):
        for number in range(1, counts[name] + 1):
            yield class_index, name, number


def draw_practice_set(root: str | Path, count: int = 1000, seed: int = 0) -> Path:
    """Draw the practice set as ``root/<class>/<class>_0001.jpg`` and so on, and return its folder.

    A picture depends only on the seed, its class and its number. The set appears in one
    step when all is drawn, so an interrupted run leaves nothing behind.

    Args:
        root: The folder to make; it may exist if it is empty.
        count: Pictures in all.
        seed: Chooses the pictures.

    Raises:
        UsageError: ``root`` is in use, or ``count`` is too small.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"output={str(root)!r} exists and is not an empty folder; choose another folder")
    pictures = list(_pictures(count))
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / root.name
        console = Console(stderr=True)
        for class_index, name, number in track(
            pictures, "drawing the practice set", console=console, transient=True, disable=not sys.stderr.isatty()
        ):
            rng = np.random.default_rng([seed, class_index, number])
            target = draft / name / f"{name}_{number:04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_animal(name, rng).save(target, quality=int(rng.integers(60, 96)))
        if root.exists():
            root.rmdir()
        draft.rename(root)
    return root
