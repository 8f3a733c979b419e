"""The images: emoji drawn on plain backgrounds, in splits that share no image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.conflict.codes import COLORS, OBJECTS
from playground.domains.emoji import BACKGROUNDS, CONCEPTS, emoji_path, render_emoji

SIZE = 128
# Images of each pair of object and background. `combination` shows the pairs that no other split but `neutral` shows.
COUNTS: Mapping[str, int] = {"neutral": 12, "train": 4, "validation": 1, "test": 1, "combination": 3}


@dataclass(frozen=True)
class Picture:
    """One image and what it shows; `path` is relative to the data folder."""

    path: str
    thing: str
    color: str


def held_out_pairs() -> set[tuple[str, str]]:
    """The pairs of object and background that only the zero-shot questions show: one an object, two a color."""
    return {(thing, COLORS[i % len(COLORS)]) for i, thing in enumerate(OBJECTS)}


def draw_split(split: str, count: int, assets: Path, data: Path, rng: np.random.Generator) -> list[Picture]:
    """Draw every pair of the split `count` times, each time with a random one of the object's emoji.

    Args:
        assets: folder of the fetched parts (`fluent-emoji`).
        data: images go to `data/images`.
    """
    apart = held_out_pairs()
    concepts = {concept.name: concept for concept in CONCEPTS}
    pictures = []
    for thing in OBJECTS:
        codes = concepts[thing].train + concepts[thing].test
        for color in COLORS:
            if split != "neutral" and ((thing, color) in apart) != (split == "combination"):
                continue
            for _ in range(count):
                code = str(rng.choice(codes))
                with Image.open(emoji_path(assets / "fluent-emoji", code)) as drawing:
                    image = render_emoji(drawing, BACKGROUNDS[color], rng, SIZE)
                path = f"images/{split}_{len(pictures):04d}.png"
                (data / path).parent.mkdir(parents=True, exist_ok=True)
                image.save(data / path)
                pictures.append(Picture(path, thing, color))
    return pictures
