"""The ten animals of the practice set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from animals_pl.data.sources.practice.pen import INK, Coat, Colour, Pen, Rng, knots, tone

WHITE: Colour = (252, 250, 244)
PINK: Colour = (236, 164, 160)
RED: Colour = (208, 62, 58)
HORN: Colour = (240, 226, 190)
BEAK: Colour = (240, 168, 56)
SHADE: Colour = (30, 30, 40, 70)


def _eye(pen: Pen, x: float, y: float, size: float = 5.5) -> None:
    """Draw an eye that is visible on light and dark fur."""
    pen.oval(x, y, size, size, WHITE).ink()
    pen.oval(x + 0.2 * size, y, 0.7 * size, 0.8 * size, INK)
    pen.oval(x + 0.35 * size, y - 0.3 * size, 0.25 * size, 0.25 * size, WHITE).ink(outlined=False)


def _shadow(pen: Pen, x: float, width: float) -> None:
    pen.oval(x, 88, width, 9, SHADE).ink(outlined=False)


def _legs(pen: Pen, rng: Rng, hips: Sequence[float], top: float, width: float, colour: Colour, foot: Colour) -> None:
    """Add one leg per hip, each at a different phase of the stride."""
    for x in hips:
        step = x + rng.uniform(-12, 12)
        knee = ((x + step) / 2 + 3, (top + 88) / 2, width)
        pen.tube([(x, top, 1.5 * width), knee, (step, 80, 0.9 * width)], colour)
        pen.oval(step + 0.25 * width, 85, 1.3 * width, 6, foot)


def _walker(pen: Pen, rng: Rng, coat: Coat, spine: str, leg_width: float, foot: Colour) -> None:
    """Draw the far legs, then add the body along its spine (rearmost joint first) and the near legs."""
    joints = knots(spine)
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
    pen.tube("32,-10,20 46,-40,17", coat.fur).ink()
    pen.tube("24,-24,4 42,-16,4.5 60,-20,4", coat.accent).ink()
    head = pen.at(48, -48, rng.uniform(-0.25, 0.25))
    head.tube("26,18,5 29,34,5.5", PINK).ink()
    head.tube("2,-4,25 20,4,17 40,8,12", coat.fur).ink()
    head.tube("30,10,8 42,10,8", coat.light)
    head.oval(49, 1, 6.5, 5.5, INK).ink(outlined=False)
    head.blob("-8,-24 4,-20 4,8 -6,30 -18,28 -22,3", coat.dark).ink()
    _eye(head, 16, -8)


def _horse(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Long neck with a mane, long head, long legs, long hanging tail."""
    mane = tone(coat.fur, 0.65) if sum(coat.fur) < 330 else tone(coat.fur, -0.6)
    pen.at(-55, -15, rng.uniform(-0.15, 0.3)).tube("0,0,7 -23,15,10 -25,50,10 -33,75,3", mane).ink()
    _walker(pen, rng, coat, "-45,-2,22 -10,3,20 25,0,22", 6, INK)
    neck = pen.at(30, -8, rng.uniform(-0.15, 0.3))
    neck.tube("0,0,22 15,-34,15 32,-64,12", coat.fur)
    neck.tube("32,-64,13 48,-46,10 62,-28,8.5", coat.fur)
    neck.blob("26,-72 31,-92 40,-72", coat.fur, smooth=False).ink()
    for step in range(6):
        lock = neck.at(-14 + 9.2 * step, -12 - 11.6 * step)
        lock.tube("3,0,6 -8,8,6 -12,20,2", mane)
    neck.tube("30,-72,5 40,-60,3", mane).ink()
    neck.oval(65, -31, 2.5, 2, INK).ink(outlined=False)
    _eye(neck, 42, -60, 4)


def _elephant(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Huge body on pillars, fan-like ear, trunk and tusk."""
    pen.tube("-70,-10,3 -86,10,2.5 -84,35,4.5", coat.dark).ink()
    _walker(pen, rng, coat, "-40,-8,40 -10,-12,44 12,-8,40", 14, HORN)
    pen.ink()
    pen.oval(50, -32, 30, 30, coat.fur)
    pen.at(70, -20, rng.uniform(-0.6, 0.1)).tube("0,0,17 16,34,12 14,62,9 26,78,7", coat.fur).ink()
    pen.tube("64,2,5.5 76,22,4.5 94,26,1.2", WHITE).ink()
    ear = pen.at(40, -30, rng.uniform(-0.15, 0.25), across=rng.uniform(0.8, 1.1))
    ear.blob("0,-30 -26,-42 -50,-20 -50,20 -32,48 -14,40 2,10", coat.dark).ink()
    ear.blob("-8,-20 -28,-30 -42,-12 -40,16 -30,34 -18,30", tone(coat.dark, 0.22)).ink(outlined=False)
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
                wing.at(x, y, droop, size, size).blob(path, colour).ink(outlined=size == 1.0)
            for dot_x, dot_y in ((27, -24), (30, -6), (22, 14)):
                wing.at(x, y, droop).oval(dot_x * x / 56, dot_y, 4.5, 4.5, WHITE)
            wing.ink(outlined=False)
        wing.tube("0,-40,1.2 12,-68,1.2 28,-86,1.2", INK)
        wing.oval(28, -86, 4, 4, INK)
    pen.tube("0,-38,8 0,-10,7.5 0,50,3.5", tone(coat.dark, -0.4)).ink()


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
        pen.at(-40, 8, turn + fan).tube("0,0,10 -30,-10,11 -52,-20,7", coat.dark).ink()
    neck = pen.at(20, 5, rng.uniform(-0.15, 0.3))
    for x, y in ((25, -77), (35, -83), (45, -78)):
        neck.oval(x, y, 7.5, 10, RED)
    neck.oval(49, -33, 6, 11, RED)
    neck.blob("49,-66 75,-53 49,-45", BEAK, smooth=False).ink()
    neck.tube("35,-57,19 16,-21,22 0,5,28", coat.fur)
    pen.blob("-62,-12 -30,0 10,-10 48,0 42,34 10,54 -30,46 -58,20", coat.fur).ink()
    pen.at(20, 8, rng.uniform(-0.2, 0.2)).blob("0,0 -20,-8 -48,-4 -72,12 -46,26 -12,24", coat.light).ink()
    _eye(neck, 41, -59, 4.5)


def _cat(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Sitting upright: pointed ears, whiskers, slit eyes, long curling tail."""
    _shadow(pen, -5, 60)
    tail = pen.at(-25, 74, rng.uniform(-0.25, 0.2))
    tail.tube("0,0,9 -47,-4,9 -61,-44,8.5 -41,-74,7.5 -55,-98,6", coat.dark).ink()
    pen.blob("5,-30 30,0 38,50 34,86 -30,88 -46,62 -36,22 -16,-8", coat.fur).ink()
    pen.oval(10, 20, 15, 26, coat.light).ink(outlined=False)
    for x in (2, 24):
        pen.tube([(x, 40, 8), (x, 80, 8)], coat.fur)
        pen.oval(x + 2, 84, 11, 7, coat.light).ink()
    head = pen.at(10 + rng.uniform(-8, 8), -40, rng.uniform(-0.25, 0.25))
    for half in head.mirrored():
        half.blob("34,-5 36,-52 6,-24", coat.fur, smooth=False)
    head.oval(0, 0, 39, 31, coat.fur).ink()
    for half in head.mirrored():
        half.blob("29,-18 31,-40 16,-25", PINK, smooth=False)
        half.oval(8, 14, 11, 8.5, coat.light)
        half.tube("16,12,0.8 56,5,0.8", INK)
        half.tube("16,13,0.8 56,16,0.8", INK)
        half.tube("12,-28,2.5 8,-17,1.2", coat.dark)
    head.tube("0,-29,2.5 0,-17,1.2", coat.dark).ink(outlined=False)
    for half in head.mirrored():
        half.oval(17, -3, 8.5, 8, BEAK).ink()
        half.oval(17, -3, 3, 7, INK)
    head.blob("-5,7 5,7 0,13", PINK, smooth=False).ink(outlined=False)


def _cow(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Boxy patched body with udder, horned head with a broad muzzle, tufted tail."""
    patch = tone(coat.fur, 0.75) if sum(coat.fur) < 460 else tone(coat.fur, -0.65)
    tail = pen.at(-72, -25, rng.uniform(-0.1, 0.5))
    tail.tube("0,0,3.5 -12,30,3 -10,60,3", coat.fur)
    tail.oval(-10, 67, 7, 12, patch)
    pen.oval(-22, 38, 17, 14, PINK).ink()
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
    head.blob("-22,-20 0,-26 22,-20 18,20 0,36 -18,20", coat.fur).ink()
    head.blob("-6,-24 6,-24 4,10 -4,10", patch).ink(outlined=False)
    head.oval(0, 26, 24, 16, PINK).ink()
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
    head.oval(-26, -6, 15, 7, skin, -0.5).ink()
    head.oval(6, 6, 20, 30, skin, -0.35).ink()
    for x, y in ((-16, -20), (-2, -27), (12, -22)):
        head.oval(x, y, 12, 11, wool)
    head.ink()
    head.oval(20, 24, 3, 2, tone(skin, -0.5)).ink(outlined=False)
    _eye(head, 10, -2, 5)


def _spider(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Eight bent legs around a round abdomen and a small head, seen from above."""
    for half in pen.mirrored():
        for turn in (-0.75, -0.15, 0.4, 0.95):
            half.at(8, -12, turn + rng.uniform(-0.15, 0.15)).tube("0,0,5 46,-14,5 88,10,2.2", coat.dark)
    pen.ink()
    pen.oval(0, 26, 34, 40, coat.fur).ink()
    for y, size in ((6, 9), (26, 12), (46, 8)):
        pen.oval(0, y, size, 0.7 * size, coat.accent)
    pen.ink(outlined=False)
    pen.oval(0, -24, 22, 21, coat.fur).ink()
    for half in pen.mirrored():
        half.tube("7,-42,3 10,-52,1.5", INK).ink(outlined=False)
    for x in (-9, 9):
        _eye(pen, x, -32, 6)


def _squirrel(pen: Pen, coat: Coat, rng: Rng) -> None:
    """Upright with a nut in its paws, before a huge bushy tail that curls over its back."""
    _shadow(pen, -10, 65)
    tail = pen.at(-10, 72, rng.uniform(-0.12, 0.15))
    tail.tube("0,0,10 -42,-14,20 -52,-62,26 -40,-114,27 -62,-138,17", coat.dark).ink()
    tail.tube("-20,-6,3 -46,-26,8 -52,-66,12 -42,-108,12", coat.light).ink(outlined=False)
    pen.blob("20,-20 40,10 42,50 30,80 -10,84 -30,64 -20,20 2,-8", coat.fur)
    pen.oval(24, 84, 26, 7, coat.fur).ink()
    pen.oval(26, 30, 13, 30, coat.light).ink(outlined=False)
    pen.oval(0, 60, 24, 22, coat.fur).ink()
    head = pen.at(34, -36, rng.uniform(-0.25, 0.25))
    head.blob("-22,-14 -19,-48 -4,-16", coat.fur, smooth=False)
    head.blob("-4,-14 -1,-48 14,-16", coat.fur, smooth=False)
    head.tube("0,0,25 26,8,13", coat.fur).ink()
    head.oval(38, 4, 4, 3.5, INK)
    head.oval(14, 12, 13, 9, coat.light).ink(outlined=False)
    _eye(head, 10, -8, 6.5)
    paw = pen.at(20, 8, rng.uniform(-0.25, 0.2))
    paw.oval(42, 12, 12, 14, (150, 96, 50))
    paw.oval(42, 1, 14, 6, (104, 66, 40)).ink()
    paw.tube("0,0,8 16,16,7 36,12,6", coat.fur).ink()


SKETCHES: dict[str, tuple[Callable[[Pen, Coat, Rng], None], float]] = {
    "cane": (_dog, 0.14),
    "cavallo": (_horse, 0.14),
    "elefante": (_elephant, 0.14),
    "farfalla": (_butterfly, 0.4),
    "gallina": (_chicken, 0.14),
    "gatto": (_cat, 0.14),
    "mucca": (_cow, 0.14),
    "pecora": (_sheep, 0.14),
    "ragno": (_spider, 0.4),
    "scoiattolo": (_squirrel, 0.14),
}
"""Function that draws a class, and its maximum rotation in radians, for every Animals-10 class."""
