"""The emoji of the natural domain: concept -> category and code points, and drawing one on a background."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llava_mocle.errors import AssetError

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "red": (205, 30, 35),
    "green": (30, 150, 60),
    "blue": (35, 70, 205),
    "yellow": (245, 215, 40),
}


@dataclass(frozen=True)
class Concept:
    """A named thing with several emoji; the last ones are kept for the test split.

    Attributes:
        name: the answer to "what is this?".
        category: its kind, or None where no category question is asked.
        train, test: code points (hexadecimal).
    """

    name: str
    category: str | None
    train: tuple[str, ...]
    test: tuple[str, ...]


def _concept(name: str, category: str | None, train: str, test: str) -> Concept:
    return Concept(name, category, tuple(train.split()), tuple(test.split()))


CONCEPTS: tuple[Concept, ...] = (
    _concept("cat", "animal", "1f408 1f431 1f63a 1f639 1f63b", "1f638 1f63c"),
    _concept("dog", "animal", "1f415 1f436 1f429", "1f9ae"),
    _concept("monkey", "animal", "1f412 1f435 1f648 1f64a", "1f649"),
    _concept("fish", "animal", "1f41f 1f420 1f988", "1f421"),
    _concept("bird", "animal", "1f426 1f985 1f986 1f99c 1f9a2 1f413", "1f54a 1f9a9"),
    _concept("insect", "animal", "1f41c 1f41d 1f41e 1f997 1fab2", "1f41b 1fab3"),
    _concept("cake", "food", "1f370 1f382", "1f9c1"),
    _concept("bread", "food", "1f35e 1f956 1f950", "1f96f"),
    _concept("fruit", "food", "1f34e 1f350 1f351 1f34a 1f34b 1f353 1f347", "1f34f 1f96d 1f352"),
    _concept("drink", "food", "1f379 1f964 1f378 1f37a", "1f377 1f9cb"),
    _concept("car", "vehicle", "1f697 1f698 1f695 1f699", "1f696 1f693"),
    _concept("bus", "vehicle", "1f68c 1f68d", "1f68e"),
    _concept("train", "vehicle", "1f682 1f683 1f684 1f686 1f688", "1f685 1f687"),
    _concept("ship", "vehicle", "1f6a2 26f4 1f6a4 26f5", "1f6f3 1f6e5"),
    _concept("airplane", "vehicle", "2708 1f6e9 1f6eb", "1f6ec"),
    _concept("tree", "plant", "1f332 1f333 1f334", "1f384"),
    _concept("flower", "plant", "1f337 1f338 1f339 1f33a 1f33b", "1f33c 1f490"),
    _concept("leaf", "plant", "1f341 1f343 1f33f 1f340", "1f342 2618"),
    _concept("shirt", "clothing", "1f455 1f45a 1f9ba", "1f3bd"),
    _concept("shoe", "clothing", "1f45e 1f45f 1f460 1f462 1f97e", "1f461 1f97f"),
    _concept("hat", "clothing", "1f3a9 1f452 1f393 1fa96", "1f9e2 26d1"),
    _concept("house", "building", "1f3e0 1f3e1 1f3da", "1f3d8"),
    _concept("tower", "building", "1f3e2 1f3e5 1f3e8 1f3ec", "1f3e3 1f3e9"),
    _concept("heart", None, "2764 1f499 1f49a 1f49b 1f49c 1f5a4 1f493", "1f9e1 1f496"),
    _concept("clock", None, "1f550 1f552 1f554 1f556 23f0 1f558", "1f55a 1f560"),
    _concept("book", None, "1f4d5 1f4d7 1f4d8 1f4d4", "1f4d9"),
    _concept("ball", None, "26bd 26be 1f3c0 1f3d0", "1f94e 1f3c8"),
    _concept("face", None, "1f600 1f603 1f60a 1f60d 1f60e 1f621 1f622 1f62e", "1f609 1f614 1f632"),
)


def emoji_path(folder: Path, code_point: str) -> Path:
    """The picture of a code point; the archive adds the variation selector to some names.

    Raises:
        AssetError: the folder has no such picture.
    """
    for name in (f"{code_point}.webp", f"{code_point}-fe0f.webp"):
        if (folder / name).is_file():
            return folder / name
    raise AssetError(f"{folder}: no picture of U+{code_point.upper()}. Run: python -m playground.fetch_assets")


def render_emoji(picture: Image.Image, color: tuple[int, int, int], rng: np.random.Generator, size: int) -> Image.Image:
    """Draw an RGBA picture on a plain background, at a random size, place, tilt and mirroring.

    Returns:
        A square RGB image of `size` pixels a side.
    """
    side = int(size * rng.uniform(0.68, 0.92))
    picture = picture.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC)
    shade = np.clip(np.array(color) + rng.integers(-10, 11, size=3), 0, 255)
    canvas = Image.new("RGB", (size, size), tuple(int(c) for c in shade))
    left, top = (int(v) for v in rng.integers(0, size - side + 1, size=2))
    canvas.paste(picture, (left, top), picture)
    return canvas
