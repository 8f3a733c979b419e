"""Image files -> RGB pictures -> the tensor a vision tower takes."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llava_mocle.data.image_limits import (
    ASPECT_RATIOS,
    ImageMissing,
    ImageOverLimit,
    ImageUnreadable,
    check_shape,
    check_sides,
)
from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import why_no_file
from llava_mocle.io.text import one_line

_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_NO_DECODER = re.compile(r"decoder \S+ not available")


def image_path(image_folder: str | Path | None, image: str) -> str:
    """Where a row's image is: relative to the dataset's folder unless it is absolute."""
    return os.path.join(image_folder or "", image)


def load_image(source: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """Open a picture as 8-bit RGB, as LLaVA does (see `to_rgb`). The camera's orientation tag is ignored.

    Args:
        source: a file, or a picture of Pillow's, which may not be decoded yet.

    Raises:
        ImageUnreadable: whatever is wrong with the file, which is named.
        MemoryError: names the file too.
    """
    if isinstance(source, (str, os.PathLike)):
        with _opened(source) as image:
            image.load()
            return to_rgb(image)
    with _naming(source_name(source)):
        return to_rgb(source)


def check_header(content: bytes, name: str) -> None:
    """Read the header of an image in memory; raises what `load_image` raises, under this name."""
    with _naming(name), Image.open(io.BytesIO(content)) as image:
        check_sides(image.size, name)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture in pixels, from its header; raises what `load_image` raises of a header."""
    with _opened(path) as image:
        return image.size


def probe_image(path: str | Path) -> tuple[int, int]:
    """Read a picture to its end without keeping it; raises what `load_image` raises.

    Returns:
        Its width and height in pixels.
    """
    with _opened(path) as image:
        size = image.size
        # At an eighth of its size, a JPEG is decoded several times faster; every byte of it is still read.
        image.draft(None, (1, 1))
        image.load()
        to_rgb(image.crop((0, 0, 1, 1)))
        return size


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The file as an image that is not decoded yet. The errors of whoever uses it are the file's too."""
    if (reason := why_no_file(path)) is not None:
        raise _missing(path, reason)
    with _naming(path), Image.open(path) as image:
        check_sides(image.size, path)
        yield image


@contextmanager
def _naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Make an `ImageUnreadable` with this name of whatever is raised; of a MemoryError, one with the name."""
    try:
        yield
    except ImageUnreadable:
        raise
    except PermissionError as error:
        raise _missing(name, "permission denied") from error
    except MemoryError as error:
        raise MemoryError(f"{one_line(name)}: not enough memory to read this image") from error
    except Exception as error:  # every decoder has errors of its own
        raise _unreadable(name, error) from error


def source_name(source: Any) -> str:
    """How messages name an image: its file, if it is or has one."""
    path = source if isinstance(source, (str, os.PathLike)) else getattr(source, "filename", None)
    return os.fspath(path) if path else "the image in memory"


def _missing(path: str | os.PathLike[str], reason: str) -> ImageMissing:
    return ImageMissing(
        f"{one_line(path)}: no such image ({one_line(reason)}); check `image_folder` and the row's `image`"
    )


def _unreadable(path: str | os.PathLike[str], error: Exception) -> ImageUnreadable:
    """The error for a file that a decoder refuses: damage, or a limit of Pillow's."""
    told = one_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return ImageOverLimit(
            f"{one_line(path)}: more pixels than Pillow reads ({told}); save it smaller, or check whether it is damaged"
        )
    if "MAX_TEXT_" in told:
        return ImageOverLimit(
            f"{one_line(path)}: holds more text beside its pixels than Pillow reads ({told}); save it again without "
            "its text chunks and colour profile"
        )
    if "Ghostscript" in told or _NO_DECODER.search(told):
        return ImageUnreadable(
            f"{one_line(path)}: needs a decoder that is not installed here ({told}); save it as PNG or JPEG"
        )
    named = (
        told if isinstance(error, (OSError, SyntaxError, ValueError)) and told else f"{type(error).__name__}: {told}"
    )
    return ImageUnreadable(f"{one_line(path)}: can't be read as an image ({named}); fetch it again")


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


def _shorter_edge(image_processor: Any) -> int | None:
    """What a processor resizes the shorter edge to while it keeps the shape; None if it does something else."""
    size = getattr(image_processor, "size", None)
    if not size or not getattr(image_processor, "do_resize", True) or size.get("longest_edge"):
        return None
    return size.get("shortest_edge")


def process_image(
    image: Image.Image, image_processor: Any, aspect_ratio: str = "pad", name: str | Path = "image"
) -> torch.Tensor:
    """Prepare one picture.

    Args:
        image: RGB.
        image_processor: one of transformers' (the PIL ones need no torchvision).
        aspect_ratio: "pad" squares the picture on the processor's mean colour first; "square" hands it over as it is.
        name: the file that it is from, for messages.

    Returns:
        Float tensor (3, H, W).

    Raises:
        ConfigError: unknown `aspect_ratio`.
        ImageOverLimit: as `check_shape`.
    """
    if aspect_ratio not in ASPECT_RATIOS:
        raise ConfigError(f"image_aspect_ratio is {aspect_ratio!r}, expected one of {', '.join(ASPECT_RATIOS)}")
    check_shape(image.size, aspect_ratio, _shorter_edge(image_processor), name)
    if aspect_ratio == "pad":
        image = pad_to_square(image, mean_colour(image_processor))
    return image_processor(images=image, return_tensors="pt")["pixel_values"][0]
