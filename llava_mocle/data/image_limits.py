"""What keeps an image from being used: its errors, and how large it may be and become. Free of torch."""

import os
from pathlib import Path

from llava_mocle.errors import DataError
from llava_mocle.io.text import one_line

ASPECT_RATIOS = ("pad", "square")
# Padding to a square may make a picture as large as the largest that Pillow reads: 179 megapixels, about 2.5 GB of
# memory and 6 seconds. A photo does not come near it.
_MOST_PADDED = 178_956_970
# Resizing the shorter edge to 336 pixels makes 67 megapixels of a picture of 1 to 594: about 600 MB and 2 seconds.
_MOST_RESIZED = 1 << 26
# No decoder of Pillow's takes lines of more than 2^31 bits; below this, a line of any kind of pixel is shorter.
_LONGEST_SIDE = 1 << 24
# The edge that LLaVA-1.5's images are resized to.
LLAVA_EDGE = 336


class ImageUnreadable(DataError):
    """An image file is empty, cut off, or no image at all.

    The message is the file's name, what is wrong, and behind the last "; " what to do.

    Attributes:
        kind: what `llava-mocle data check` counts it as.
    """

    kind = "corrupt image"


class ImageMissing(ImageUnreadable):
    """Nothing can be opened at an image's path."""

    kind = "missing image"


class ImageOverLimit(ImageUnreadable):
    """An image may be sound, but reading or preparing it would take more memory than is allowed."""

    kind = "image over a limit"


def check_sides(size: tuple[int, int], name: str | os.PathLike[str]) -> None:
    """Refuse a line of pixels that decoders answer with a MemoryError, however much memory there is."""
    if max(size) > _LONGEST_SIDE:
        raise ImageOverLimit(
            f"{one_line(name)}: {size[0]} x {size[1]} pixels, where a side has {_LONGEST_SIDE:,} at most; crop it, or "
            "check whether it is damaged"
        )


def check_shape(size: tuple[int, int], aspect_ratio: str, edge: int | None, name: str | Path = "image") -> None:
    """Refuse a picture that would become too large on its way to the tower: mostly one that is long and thin.

    Args:
        size: width and height in pixels.
        aspect_ratio: "pad" makes a square of the longer edge; "square" resizes as the processor does.
        edge: what the processor resizes the shorter edge to, keeping the shape; None if it does not keep the shape.
        name: the file, for the message.

    Raises:
        ImageOverLimit: says what it would become.
    """
    short, long = sorted(size)
    if aspect_ratio == "pad":
        made, most = (long, long), _MOST_PADDED
    elif edge is None or short < 1:
        return
    else:
        longer = edge * long // short
        made, most = (edge, longer) if size[0] == short else (longer, edge), _MOST_RESIZED
    pixels = made[0] * made[1]
    if pixels > most:
        way_out = "crop it or make it smaller"
        if aspect_ratio != "pad":
            way_out = "crop it" + (", or use image_aspect_ratio pad" if long * long <= _MOST_PADDED else "")
        thin = f"{size[0]} x {size[1]} pixels (1 to {long / max(short, 1):,.0f})"
        raise ImageOverLimit(
            f"{one_line(name)}: {thin} would become {made[0]} x {made[1]} with image_aspect_ratio {aspect_ratio}: "
            f"{pixels / 1e6:,.0f} megapixels of at most {most / 1e6:.0f}; {way_out}"
        )
