"""Image files -> RGB pictures -> the tensor a vision tower takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llava_mocle.errors import ConfigError, DataError

ASPECT_RATIOS = ("pad", "square")
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class ImageUnreadable(DataError):
    """An image file is missing, empty, cut off, or no image at all."""


def image_path(image_folder: str | Path | None, image: str) -> str:
    """Where a row's image is: relative to the dataset's folder unless it is absolute."""
    return os.path.join(image_folder or "", image)


def load_image(path: str | Path) -> Image.Image:
    """Open a picture as 8-bit RGB, as LLaVA does (see `to_rgb`). The camera's orientation tag is ignored.

    Raises:
        ImageUnreadable: names the file and what is wrong with it.
    """
    with _opened(path) as image:
        return to_rgb(image)


def probe_image(path: str | Path) -> None:
    """Read a picture to its end without keeping it; raises what `load_image` raises."""
    # At an eighth of its size, a JPEG is decoded several times faster; every byte of it is still read.
    with _opened(path, small=True):
        pass


@contextmanager
def _opened(path: str | Path, small: bool = False) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            if small:
                image.draft(None, (1, 1))
            image.load()
            yield image
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{path}: no such image; check `image_folder` and the row's `image`") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageUnreadable(f"{path}: can't be read as an image ({error}); fetch it again") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode to RGB: PIL's `convert`, except that 16-bit grey is scaled to 8 bits, where PIL would clip it.

    Transparency is dropped, not laid over a background: published LLaVA checkpoints were trained on such pictures.
    """
    if image.mode in _WIDE_MODES:
        values = np.asarray(image).astype(np.int64)
        # PIL reads 8-bit files of some formats as "I" too. Only values above 255 show that there are 16 bits.
        if image.mode != "I" or values.max(initial=0) > 255:
            values = np.clip(values, 0, 65535) // 257
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def pad_to_square(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Centre a picture in the smallest square that holds it, on a plain background (odd pixels go right or below)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), background)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def mean_colour(image_processor: Any) -> tuple[int, int, int]:
    """The colour that becomes about zero when the processor normalises it."""
    mean = getattr(image_processor, "image_mean", None)
    red, green, blue = (0.5, 0.5, 0.5) if mean is None else mean
    return int(red * 255), int(green * 255), int(blue * 255)


def process_image(image: Image.Image, image_processor: Any, aspect_ratio: str = "pad") -> torch.Tensor:
    """Prepare one picture.

    Args:
        image: RGB.
        image_processor: one of transformers' (the PIL ones need no torchvision).
        aspect_ratio: "pad" squares the picture on the processor's mean colour first; "square" hands it over as it is.

    Returns:
        Float tensor (3, H, W).

    Raises:
        ConfigError: unknown `aspect_ratio`.
    """
    if aspect_ratio not in ASPECT_RATIOS:
        raise ConfigError(f"image_aspect_ratio is {aspect_ratio!r}, expected one of {', '.join(ASPECT_RATIOS)}")
    if aspect_ratio == "pad":
        image = pad_to_square(image, mean_colour(image_processor))
    return image_processor(images=image, return_tensors="pt")["pixel_values"][0]
