"""The natural domain: named objects (emoji on plain backgrounds) and photographs; captions and questions.

The test split uses pictures that training never shows: other emoji of the same concepts, and other photographs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from playground.domains.emoji import BACKGROUNDS, CONCEPTS, Concept, emoji_path, render_emoji
from playground.domains.rows import Captioned, Fact, Row, balanced, write_domain

NAME = "natural"
IMAGE_SIZE = 224
TRAIN_QUOTA = {"caption": 300, "name": 450, "category": 350, "background": 300, "style": 100}
TEST_QUOTA = {"caption": 20, "name": 30, "category": 25, "background": 18, "style": 7}

NAME_QUESTIONS = ("What is this?", "What object is in the picture?", "What is shown here?", "What do you see?")
CATEGORY_QUESTIONS = (
    "Is this an animal, food, a vehicle, a plant, clothing or a building?",
    "Which category does the object belong to?",
    "What kind of thing is in the picture?",
)
BACKGROUND_QUESTIONS = ("What color is the background?", "Which color is behind the object?")
STYLE_QUESTIONS = ("Is this a photo or a drawing?", "Is the picture a drawing or a photo?")


@dataclass(frozen=True)
class Photo:
    """A photograph among the parts: where it lies, what it shows."""

    path: str
    name: str
    category: str | None


TRAIN_PHOTOS = (
    Photo("foolbox/imagenet_00_243.jpg", "dog", "animal"),
    Photo("foolbox/imagenet_04_949.jpg", "fruit", "food"),
    Photo("foolbox/imagenet_05_853.jpg", "house", "building"),
    Photo("foolbox/imagenet_06_609.jpg", "car", "vehicle"),
    Photo("foolbox/imagenet_11_630.jpg", "shoe", "clothing"),
    Photo("foolbox/imagenet_14_129.jpg", "bird", "animal"),
    Photo("foolbox/imagenet_17_22.jpg", "bird", "animal"),
    Photo("foolbox/imagenet_18_317.jpg", "insect", "animal"),
    Photo("skimage/chelsea.png", "cat", "animal"),
    Photo("skimage/coffee.png", "drink", "food"),
)
TEST_PHOTOS = (
    Photo("foolbox/imagenet_07_609.jpg", "car", "vehicle"),
    Photo("foolbox/imagenet_15_99.jpg", "bird", "animal"),
    Photo("foolbox/imagenet_16_251.jpg", "dog", "animal"),
    Photo("foolbox/imagenet_19_305.jpg", "insect", "animal"),
)


def with_article(name: str) -> str:
    """The name with its indefinite article: "a cat", "an airplane", but "bread" as it is."""
    if name in ("bread", "fruit"):
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def facts_of(
    image: str, name: str, category: str | None, background: str | None, rng: np.random.Generator
) -> list[Fact]:
    """Everything that can be asked about a picture; `background` is None for a photograph."""
    facts = [
        Fact(image, "caption", caption_of(name, background)),
        Fact(image, "name", name, str(rng.choice(NAME_QUESTIONS))),
        Fact(image, "style", "photo" if background is None else "drawing", str(rng.choice(STYLE_QUESTIONS))),
    ]
    if category is not None:
        facts.append(Fact(image, "category", category, str(rng.choice(CATEGORY_QUESTIONS))))
    if background is not None:
        facts.append(Fact(image, "background", background, str(rng.choice(BACKGROUND_QUESTIONS))))
    return facts


def caption_of(name: str, background: str | None) -> str:
    """The caption of a picture: "a cat on a red background", or "a photo of a cat"."""
    return (
        f"a photo of {with_article(name)}"
        if background is None
        else f"{with_article(name)} on a {background} background"
    )


def crop_photo(photo: Image.Image, rng: np.random.Generator, size: int = IMAGE_SIZE) -> Image.Image:
    """A random square crop of at least three quarters of the shorter side, maybe mirrored, as RGB of `size` pixels."""
    side = int(min(photo.size) * rng.uniform(0.75, 1.0))
    left = int(rng.integers(0, photo.width - side + 1))
    top = int(rng.integers(0, photo.height - side + 1))
    crop = (
        photo.convert("RGB").crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    )
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


class _Split:
    """Collects the images, facts and captions of one split."""

    def __init__(self, split: str, data: Path, rng: np.random.Generator) -> None:
        self.split, self.data, self.rng = split, data, rng
        self.facts: list[Fact] = []
        self.captioned: list[Captioned] = []

    def add(self, image: Image.Image, name: str, category: str | None, background: str | None) -> None:
        path = f"{NAME}/images/{self.split}_{len(self.captioned):04d}.jpg"
        (self.data / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(self.data / path, quality=92)
        self.facts += facts_of(path, name, category, background, self.rng)
        self.captioned.append(Captioned(path, caption_of(name, background)))

    def add_concept(self, concept: Concept, codes: tuple[str, ...], count: int, folder: Path) -> None:
        """Draw a concept `count` times, going round its emoji and through shuffled backgrounds."""
        colors = [str(c) for c in self.rng.permutation(list(BACKGROUNDS))]
        for n in range(count):
            color = colors[n % len(colors)]
            with Image.open(emoji_path(folder, codes[n % len(codes)])) as picture:
                image = render_emoji(picture, BACKGROUNDS[color], self.rng, IMAGE_SIZE)
            self.add(image, concept.name, concept.category, color)

    def add_photos(self, photos: tuple[Photo, ...], count: int, assets: Path) -> None:
        for photo in photos:
            with Image.open(assets / photo.path) as picture:
                for _ in range(count):
                    self.add(crop_photo(picture, self.rng), photo.name, photo.category, None)


def make(
    assets: Path,
    data: Path,
    seed: int = 0,
    images_per_concept: tuple[int, int] = (15, 2),
    images_per_photo: tuple[int, int] = (5, 3),
    train_quota: Mapping[str, int] = TRAIN_QUOTA,
    test_quota: Mapping[str, int] = TEST_QUOTA,
) -> list[Row]:
    """Make the domain under `data/natural` (image paths in rows are relative to `data`).

    Args:
        assets: folder of the fetched parts (`fluent-emoji`, `foolbox`, `skimage`).
        images_per_concept, images_per_photo: (training, test) pictures made of each.

    Returns:
        The stage-1 caption rows.
    """
    rng = np.random.default_rng([seed, 1])
    train, test = _Split("train", data, rng), _Split("test", data, rng)
    for concept in CONCEPTS:
        train.add_concept(concept, concept.train, images_per_concept[0], assets / "fluent-emoji")
        test.add_concept(concept, concept.test, images_per_concept[1], assets / "fluent-emoji")
    train.add_photos(TRAIN_PHOTOS, images_per_photo[0], assets)
    test.add_photos(TEST_PHOTOS, images_per_photo[1], assets)
    return write_domain(
        NAME,
        data,
        balanced(train.facts, train_quota, rng),
        balanced(test.facts, test_quota, rng),
        train.captioned,
        rng,
    )
