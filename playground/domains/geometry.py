"""The geometry domain: easy-VQA's shapes with its own questions, and rendered length and angle problems.

easy-VQA's own split is kept: its test images are only tested on.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from llava_mocle.errors import AssetError
from playground.domains import figures
from playground.domains.rows import Captioned, Fact, Row, balanced, write_domain

NAME = "geometry"
TRAIN_QUOTA = {"color": 350, "shape": 350, "yesno": 250, "angle": 150, "sides": 120, "length": 120, "compare": 80}
TEST_QUOTA = {"color": 24, "shape": 24, "yesno": 16, "angle": 10, "sides": 8, "length": 10, "compare": 8}

COLORS = ("red", "green", "blue", "yellow", "teal", "black", "gray", "brown")
SHAPES = ("circle", "rectangle", "triangle")

FIGURE_QUESTIONS = {
    "angle": ("How many degrees is the marked angle?", "What is the size of the angle in degrees?"),
    "sides": ("How many sides does the polygon have?", "Count the sides of the polygon."),
    "length": ("What is the length of the bar in grid squares?", "How long is the bar, in squares of the grid?"),
    "compare": ("Which bar is longer, red or blue?", "Is the red bar or the blue bar longer?"),
}


def shape_facts(image: str, questions: list[tuple[str, str]]) -> list[Fact]:
    """Facts of one easy-VQA image from its own (question, answer) pairs."""
    facts = []
    for question, answer in questions:
        kind = "color" if answer in COLORS else "shape" if answer in SHAPES else "yesno"
        facts.append(Fact(image, kind, answer, question[:1].upper() + question[1:]))
    return facts


def shape_caption(questions: list[tuple[str, str]]) -> str:
    """The caption of an easy-VQA image, "a blue triangle", read from its answers."""
    color = next((answer for _, answer in questions if answer in COLORS), "")
    shape = next((answer for _, answer in questions if answer in SHAPES), "shape")
    return " ".join(f"a {color} {shape}".split())


def read_questions(path: Path) -> dict[int, list[tuple[str, str]]]:
    """easy-VQA's questions by image number.

    Raises:
        AssetError: the file isn't there or isn't a list of [question, answer, image].
    """
    try:
        by_image: dict[int, list[tuple[str, str]]] = {}
        for question, answer, number in json.loads(path.read_text(encoding="utf-8")):
            by_image.setdefault(int(number), []).append((question, answer))
        return by_image
    except (OSError, ValueError, TypeError) as error:
        raise AssetError(f"{path}: cannot be read ({error}). Run: python -m playground.fetch_assets") from error


def _shapes(
    split: str, assets: Path, data: Path, count: int, rng: np.random.Generator
) -> tuple[list[Fact], list[Captioned]]:
    folder = assets / "easy_vqa" / split
    by_image = read_questions(folder / "questions.json")
    numbers = sorted(int(n) for n in rng.choice(sorted(by_image), size=min(count, len(by_image)), replace=False))
    facts: list[Fact] = []
    captioned: list[Captioned] = []
    for number in numbers:
        path = f"{NAME}/images/{split}_shape_{number:04d}.png"
        with Image.open(folder / "images" / f"{number}.png") as image:
            image.convert("RGB").save(data / path)
        facts += shape_facts(path, by_image[number])
        captioned.append(Captioned(path, shape_caption(by_image[number])))
    return facts, captioned


def draw_figure(kind: str, number: int, rng: np.random.Generator) -> tuple[Image.Image, str, str]:
    """The `number`-th figure of a kind, going round its answers.

    Returns:
        (image, answer, caption).
    """
    if kind == "angle":
        degrees = figures.ANGLES[number % len(figures.ANGLES)]
        return figures.draw_angle(degrees, rng), str(degrees), f"an angle of {degrees} degrees"
    if kind == "sides":
        sides = list(figures.POLYGONS)[number % len(figures.POLYGONS)]
        return figures.draw_polygon(sides, rng), str(sides), f"a polygon with {sides} sides"
    if kind == "length":
        length = figures.LENGTHS[number % len(figures.LENGTHS)]
        return figures.draw_bar(length, rng), str(length), f"a bar {length} squares long"
    longer = list(figures.COLORS)[number % 2]
    return figures.draw_comparison(longer, rng), longer, f"a long {longer} bar"


def _figures(split: str, data: Path, count: int, rng: np.random.Generator) -> tuple[list[Fact], list[Captioned]]:
    facts: list[Fact] = []
    captioned: list[Captioned] = []
    for kind, questions in FIGURE_QUESTIONS.items():
        for number in range(count):
            path = f"{NAME}/images/{split}_{kind}_{number:04d}.png"
            image, answer, caption = draw_figure(kind, number, rng)
            image.save(data / path)
            facts += [Fact(path, kind, answer, question) for question in questions]
            captioned.append(Captioned(path, caption))
    return facts, captioned


def make(
    assets: Path,
    data: Path,
    seed: int = 0,
    shape_images: tuple[int, int] = (260, 40),
    figures_per_kind: tuple[int, int] = (45, 10),
    train_quota: Mapping[str, int] = TRAIN_QUOTA,
    test_quota: Mapping[str, int] = TEST_QUOTA,
) -> list[Row]:
    """Make the domain under `data/geometry` (image paths in rows are relative to `data`).

    Args:
        assets: folder of the fetched parts (`easy_vqa`).
        shape_images, figures_per_kind: (training, test) images.

    Returns:
        The stage-1 caption rows.
    """
    rng = np.random.default_rng([seed, 2])
    (data / NAME / "images").mkdir(parents=True, exist_ok=True)
    chosen: dict[str, list[Fact]] = {}
    captioned: list[Captioned] = []
    for index, (split, quota) in enumerate((("train", train_quota), ("test", test_quota))):
        shapes, shape_captions = _shapes(split, assets, data, shape_images[index], rng)
        drawn, figure_captions = _figures(split, data, figures_per_kind[index], rng)
        chosen[split] = balanced(shapes + drawn, quota, rng)
        if split == "train":
            captioned = shape_captions + figure_captions
    return write_domain(NAME, data, chosen["train"], chosen["test"], captioned, rng)
