"""Rendered geometry problems: simple figures with numeric or comparative answers."""

import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 224
_OVERSAMPLE = 2  # drawn larger and reduced, since PIL's lines have hard edges
ANGLES = (30, 60, 90, 120, 150)
POLYGONS = {3: "3", 4: "4", 5: "5", 6: "6"}
LENGTHS = (2, 4, 6, 8)
INK = (20, 20, 30)
COLORS = {"red": (215, 30, 30), "blue": (30, 60, 215)}

Point = tuple[float, float]


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE * _OVERSAMPLE,) * 2, (255, 255, 255))
    return image, ImageDraw.Draw(image)


def _finish(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _scaled(points: list[Point]) -> list[Point]:
    return [(x * SIZE * _OVERSAMPLE, y * SIZE * _OVERSAMPLE) for x, y in points]


def draw_angle(degrees: int, rng: np.random.Generator) -> Image.Image:
    """An angle of the given size with its arc; one arm is about horizontal, the vertex near the bottom middle."""
    image, pen = _canvas()
    x, y = 0.5 + rng.uniform(-0.06, 0.06), 0.68 + rng.uniform(-0.05, 0.05)
    length = rng.uniform(0.36, 0.42)
    tilt = rng.uniform(-4, 4)
    for direction in (tilt, tilt + degrees):
        angle = math.radians(direction)
        end = (x + length * math.cos(angle), y - length * math.sin(angle))
        pen.line(_scaled([(x, y), end]), fill=INK, width=6 * _OVERSAMPLE)
    radius = 0.14
    box = _scaled([(x - radius, y - radius), (x + radius, y + radius)])
    pen.pieslice(box, -(tilt + degrees), -tilt, fill=(235, 140, 40))
    return _finish(image)


def draw_polygon(sides: int, rng: np.random.Generator) -> Image.Image:
    """A filled, about regular polygon."""
    image, pen = _canvas()
    radius = rng.uniform(0.3, 0.4)
    x, y = 0.5 + rng.uniform(-0.08, 0.08), 0.5 + rng.uniform(-0.08, 0.08)
    start = -90 + rng.uniform(-12, 12) + (45 if sides == 4 else 0)
    points = [
        (
            x + radius * math.cos(math.radians(start + 360 * i / sides)),
            y + radius * math.sin(math.radians(start + 360 * i / sides)),
        )
        for i in range(sides)
    ]
    color = tuple(int(c) for c in rng.integers(20, 200, size=3))
    pen.polygon(_scaled(points), fill=color)
    return _finish(image)


def draw_bar(length: int, rng: np.random.Generator) -> Image.Image:
    """A horizontal bar `length` grid squares long on a grid of ten squares a side."""
    image, pen = _canvas()
    for i in range(11):
        pen.line(_scaled([(i / 10, 0), (i / 10, 1)]), fill=(190, 200, 215), width=_OVERSAMPLE)
        pen.line(_scaled([(0, i / 10), (1, i / 10)]), fill=(190, 200, 215), width=_OVERSAMPLE)
    left = int(rng.integers(1, 10 - length)) / 10
    top = int(rng.integers(3, 6)) / 10
    pen.rectangle(_scaled([(left, top), (left + length / 10, top + 0.1)]), fill=(60, 40, 160))
    return _finish(image)


def draw_comparison(longer: str, rng: np.random.Generator) -> Image.Image:
    """A red and a blue horizontal bar, one clearly longer; which is on top is random."""
    image, pen = _canvas()
    lengths = {name: rng.uniform(0.7, 0.85) if name == longer else rng.uniform(0.2, 0.4) for name in COLORS}
    order = [str(name) for name in rng.permutation(list(COLORS))]
    for name, top in zip(order, (0.22, 0.62), strict=True):
        left = rng.uniform(0.06, 0.94 - lengths[name])
        pen.rectangle(_scaled([(left, top), (left + lengths[name], top + 0.16)]), fill=COLORS[name])
    return _finish(image)
