"""The practice set: synthetic images in Animals-10's folder layout, for a first run without a download."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from animals_pl.data.catalog import ANIMALS10_COUNTS
from animals_pl.data.sources.practice.animals import SKETCHES
from animals_pl.data.sources.practice.pen import ACCENTS, FURS, Coat, Colour, Pen, Rng, palette, pick, rotation, tone
from animals_pl.errors import UsageError
from animals_pl.files import require_empty, track

SUPERSAMPLE = 3
"""Images are drawn this many times larger and then reduced, for smooth edges."""

PRACTICE_ROOT = "datasets/practice"
"""Default folder of the practice set."""

MIN_PER_CLASS = 2
"""Every class needs a training and a validation image."""

# Upper and lower sky, far and near ground.
LANDSCAPES = (
    palette("#80beec #daeef6 #7eb06c #94c468"),
    palette("#96cee2 #f6f0dc #68b0be #ecd6a4"),
    palette("#f8b284 #fce0b2 #9e7e8a #be9c80"),
    palette("#b0c2d6 #e4eaf2 #b8c8d6 #f0f4f8"),
    palette("#8e86bc #e8b8c6 #6a7a8e #7a9680"),
    palette("#c4debe #e8f0ce #749670 #b09a70"),
)


def _gradient(size: tuple[int, int], colours: Sequence[Colour]) -> Image.Image:
    strip = np.array([[c] for c in colours], dtype=np.uint8)
    column = Image.fromarray(strip).resize((1, size[1]), Image.Resampling.BICUBIC)
    return column.resize(size, Image.Resampling.NEAREST)


def _landscape(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Sky over two ridges, with sun, clouds and grass."""
    width, height = size
    sky, haze, far, near = (pick([c], rng) for c in LANDSCAPES[rng.integers(len(LANDSCAPES))])
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
    """Wallpaper with pictures, over a wooden floor."""
    width, height = size
    wall, floor = tone(pick(ACCENTS, rng), rng.uniform(0.35, 0.7)), tone(pick(FURS, rng), 0.3)
    picture = _gradient(size, (tone(wall, 0.15), wall))
    draw = ImageDraw.Draw(picture, "RGBA")
    for x in np.arange(0, width, width * rng.uniform(0.06, 0.15)).tolist():
        draw.rectangle((x, 0, x + 0.025 * width, height), fill=(255, 255, 255, int(rng.integers(20, 70))))
    for _ in range(rng.integers(0, 3)):
        x, y, r = rng.uniform(0, width), rng.uniform(0.05, 0.4) * height, rng.uniform(0.08, 0.16) * width
        draw.rectangle((x, y, x + r, y + r), fill=pick(ACCENTS, rng), outline=tone(floor, -0.4), width=4 * SUPERSAMPLE)
    skirting = rng.uniform(0.62, 0.82) * height
    draw.rectangle((0, skirting, width, height), fill=floor)
    draw.rectangle((0, skirting, width, skirting + 0.02 * height), fill=tone(floor, -0.3))
    for x in np.arange(0, width, width * rng.uniform(0.1, 0.2)).tolist():
        draw.line((x, skirting, x + 0.4 * (x - width / 2), height), fill=(*tone(floor, -0.3), 130), width=SUPERSAMPLE)
    return picture


def _lights(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Soft gradient with blurred discs of light."""
    picture = _gradient(size, [tone(pick(ACCENTS + FURS, rng), 0.45) for _ in range(rng.integers(2, 5))])
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(rng.integers(4, 16)):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.03, 0.14) * size[0]
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*tone(pick(ACCENTS, rng), 0.4), int(rng.integers(40, 110))))
    return picture


def _mottle(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Blotches of one colour, like moss, gravel or a wall."""
    grid = rng.integers(6, 24, 2)
    base = np.array(tone(pick(ACCENTS + FURS, rng), rng.uniform(0.2, 0.6)))
    blotches = base + rng.normal(0, rng.uniform(6, 20), (*grid, 1)) + rng.normal(0, 4, (*grid, 3))
    return Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


SCENES = (_landscape, _landscape, _room, _lights, _mottle)
"""Backgrounds, drawn with the same frequency for every class."""


def _pose(size: tuple[int, int], turn: float, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and origin of a random pose that keeps the animal mostly inside the image."""
    scale = rng.uniform(0.84, 1.0) * min(size) / 2
    build = np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.88, 1.05), rng.uniform(0.88, 1.05)])
    centre = np.array(size) / 2
    margin = 0.9 * (centre - 0.93 * scale)
    return scale / 100 * rotation(rng.uniform(-turn, turn)) @ build, centre + rng.uniform(-1, 1, 2) * margin


def _image_size(rng: Rng) -> tuple[int, int]:
    """Random width and height, between 120 and 340 pixels."""
    side, aspect = rng.uniform(150, 275), math.exp(rng.uniform(-0.3, 0.4))
    return round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))


def _camera_flaws(picture: Image.Image, rng: Rng) -> Image.Image:
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    pixels = np.asarray(picture, dtype=np.float32) * rng.uniform(0.85, 1.1)
    if rng.random() < 0.4:
        pixels = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 9)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_animal(class_name: str, rng: Rng) -> Image.Image:
    """Draw an animal of an Italian Animals-10 class, with random pose, coat, background and image size."""
    sketch, turn = SKETCHES[class_name]
    size = _image_size(rng)
    large = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    picture = SCENES[rng.integers(len(SCENES))](large, rng)
    pen = Pen(ImageDraw.Draw(picture, "RGBA"), *_pose(large, turn, rng))
    sketch(pen, Coat.choose(rng), rng)
    return _camera_flaws(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=1.5), rng)


def practice_counts(count: int = 1000) -> dict[str, int]:
    """Images per class in a practice set of ``count`` images.

    The classes keep Animals-10's proportions (largest remainder method), with at least two images each.

    Raises:
        UsageError: ``count`` is too small for two images per class.
    """
    fewest = MIN_PER_CLASS * len(ANIMALS10_COUNTS)
    if count < fewest:
        raise UsageError(f"count={count} is too small for {len(ANIMALS10_COUNTS)} classes. Pass {fewest} or more.")
    total = sum(ANIMALS10_COUNTS.values())
    counts = {name: count * full // total for name, full in ANIMALS10_COUNTS.items()}
    by_remainder = sorted(counts, key=lambda name: -(count * ANIMALS10_COUNTS[name] % total))
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    while min(counts.values()) < MIN_PER_CLASS:
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[min(counts, key=counts.__getitem__)] += 1
    return counts


def draw_practice_set(root: str | Path, count: int = 1000, seed: int = 0) -> Path:
    """Generate the practice set as ``root/<class>/<class>_0001.jpg`` and so on, and return its folder.

    An image depends only on the seed, its class and its number. The folder is created once all images are generated,
    so an interrupted run leaves nothing behind.

    Args:
        root: The folder to create. It may exist if it is empty.
        count: Total number of images.
        seed: Seed of the set.

    Raises:
        UsageError: ``root`` is not empty, or ``count`` is too small.
    """
    root = Path(root)
    require_empty(root)
    images = [
        (class_index, name, number)
        for class_index, (name, images) in enumerate(practice_counts(count).items())
        for number in range(1, images + 1)
    ]
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / root.name
        for class_index, name, number in track(images, "generating the practice set"):
            rng = np.random.default_rng([seed, class_index, number])
            target = draft / name / f"{name}_{number:04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw_animal(name, rng).save(target, quality=int(rng.integers(60, 96)))
        if root.exists():
            root.rmdir()
        draft.rename(root)
    return root
