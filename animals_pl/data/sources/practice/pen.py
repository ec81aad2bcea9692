"""Pen and colours for drawing the practice set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageColor, ImageDraw

Rng = np.random.Generator

Colour = tuple[int, ...]
"""Red, green, blue and optionally alpha, 0 to 255."""

Path2D = str | Sequence[Sequence[float]]
"""Points of an outline or joints of a limb, as numbers or as text ``"x,y x,y"``."""


def palette(codes: str) -> tuple[Colour, ...]:
    """Colours from hex codes separated by spaces."""
    return tuple(ImageColor.getrgb(code) for code in codes.split())


# One palette for all classes, so that colours alone do not identify a class.
FURS = palette("#4e484c #706868 #969498 #8898a8 #eee8de #e2ceaa #ceaa7a #de964c #c0683e #a0704c #7a523c #e8be60")
ACCENTS = palette("#ce3c3a #f08830 #f6cc4c #589e5c #428cc4 #7a60b2 #e880a0")
INK: Colour = (46, 36, 38)


def tone(colour: Colour, amount: float) -> Colour:
    """Darken (``amount`` below 0, down to -1) or lighten (up to 1) a colour."""
    goal = 255 if amount > 0 else 0
    return tuple(round(c + (goal - c) * abs(amount)) for c in colour[:3])


def pick(options: Sequence[Colour], rng: Rng) -> Colour:
    """Random colour of a palette, with small variations of brightness and hue."""
    chosen = np.array(options[int(rng.integers(len(options)))]) + rng.integers(-16, 17) + rng.integers(-5, 6, 3)
    return tuple(np.clip(chosen, 0, 255).tolist())


@dataclass(frozen=True)
class Coat:
    """Colours of one animal."""

    fur: Colour
    dark: Colour
    light: Colour
    accent: Colour

    @classmethod
    def choose(cls, rng: Rng) -> Coat:
        """Random coat, from the same distribution for every class."""
        fur = pick(FURS, rng)
        return cls(fur, tone(fur, -0.32), tone(fur, 0.5), pick(ACCENTS, rng))


def knots(path: Path2D) -> np.ndarray:
    """Points of a path as rows of an array."""
    points = [[float(v) for v in point.split(",")] for point in path.split()] if isinstance(path, str) else path
    return np.array(points, dtype=float)


def _curve(joints: np.ndarray, closed: bool, steps: int = 6) -> np.ndarray:
    """Points along a Catmull-Rom spline through the joints, of any dimension."""
    ends = (joints[-1:], joints[:2]) if closed else (joints[:1], joints[-1:])
    padded = np.concatenate([ends[0], joints, ends[1]])
    before, start, stop, after = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    bend = 2 * before - 5 * start + 4 * stop - after + t * (3 * (start - stop) + after - before)
    points = (start + 0.5 * t * (stop - before + t * bend)).reshape(-1, joints.shape[1])
    return points if closed else np.concatenate([points, joints[-1:]])


class Pen:
    """Draws in the frame of an animal that looks to the right: x and y from -100 to 100, y down, feet near 88.

    Methods that add a shape return the pen. Shapes are collected until ``ink`` draws them with a common outline: parts
    inked together form one body, parts inked later appear in front of it.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, matrix: np.ndarray, origin: np.ndarray) -> None:
        """Set the canvas and the pose: point p of the frame is at ``origin + matrix @ p``."""
        self._draw = draw
        self._matrix = matrix
        self._origin = origin
        self._unit = math.sqrt(abs(np.linalg.det(matrix)))
        self._rim = 2.6 * self._unit
        self._shapes: list[tuple[np.ndarray, np.ndarray | None, Colour]] = []

    def at(self, x: float, y: float, turn: float = 0.0, across: float = 1.0, down: float = 1.0) -> Pen:
        """Pen for the same drawing with a frame that is moved, rotated clockwise (radians) and scaled."""
        matrix = self._matrix @ rotation(turn) @ np.diag([across, down])
        pen = Pen(self._draw, matrix, self._origin + self._matrix @ np.array([x, y]))
        pen._rim, pen._shapes = self._rim, self._shapes
        return pen

    def mirrored(self) -> tuple[Pen, Pen]:
        """This pen and one that draws mirrored, for paired parts."""
        return self.at(0, 0, across=-1), self

    def blob(self, path: Path2D, colour: Colour, smooth: bool = True) -> Pen:
        """Add a filled shape with a smooth or polygonal outline."""
        corners = knots(path)
        return self._add(_curve(corners, closed=True) if smooth else corners, None, colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0) -> Pen:
        """Add an ellipse, rotated clockwise by ``turn`` radians."""
        angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        return self._add(
            np.stack([rx * np.cos(angle), ry * np.sin(angle)], 1) @ rotation(turn).T + (x, y), None, colour
        )

    def tube(self, path: Path2D, colour: Colour) -> Pen:
        """Add a bent limb with round ends through joints ``"x,y,radius"``."""
        joints = _curve(knots(path), closed=False)
        return self._add(joints[:, :2], np.maximum(joints[:, 2], 0.4), colour)

    def ink(self, outlined: bool = True) -> None:
        """Draw the collected shapes: first their common outline, then their colours."""
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

    def _add(self, points: np.ndarray, radii: np.ndarray | None, colour: Colour) -> Pen:
        placed = points @ self._matrix.T + self._origin
        self._shapes.append((placed, None if radii is None else radii * self._unit, colour))
        return self

    def _stroke(self, points: np.ndarray, radii: np.ndarray, colour: Colour) -> None:
        widths = np.maximum(1, np.round(2 * radii)).astype(int).tolist()
        for box in np.concatenate([points - radii[:, None], points + radii[:, None]], 1).tolist():
            self._draw.ellipse(box, fill=colour)
        for segment, width in zip(np.concatenate([points[:-1], points[1:]], 1).tolist(), widths, strict=False):
            self._draw.line(segment, fill=colour, width=width)


def rotation(angle: float) -> np.ndarray:
    """Matrix (2, 2) that rotates clockwise (y points down) by the angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])
