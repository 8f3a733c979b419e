"""Images of a request: data URIs alone, and no pixel is decoded before the header has told how many there are."""

import base64
import binascii
import io
import warnings
from dataclasses import dataclass

from PIL import Image

from llava_mocle.data.image_limits import ImageUnreadable, check_sides
from llava_mocle.io.text import one_line
from llava_mocle.serving.question import Limits
from llava_mocle.serving.refusal import Refusal

# The decoders that clients may reach. Pillow has some forty, most of them for formats that nobody sends.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# `data:image/svg+xml;charset=utf-8;base64,` is about the longest head of a data URI.
_LONGEST_HEAD = 100


@dataclass(frozen=True)
class Picture:
    """An image that was sent, not decoded.

    Attributes:
        content: the bytes of its file.
        format: one of `FORMATS`.
        size: width and height in pixels.
    """

    content: bytes
    format: str
    size: tuple[int, int]

    def image(self) -> Image.Image:
        """It, as Pillow's, decoded on first use."""
        return Image.open(io.BytesIO(self.content), formats=(self.format,))

    def data_uri(self) -> str:
        """It, as it was sent."""
        return data_uri(self.content, self.format)


def data_uri(content: bytes, form: str) -> str:
    """A data URI of an image file; `form` is its format's name in Pillow."""
    return f"data:image/{form.lower()};base64,{base64.b64encode(content).decode('ascii')}"


def picture_of(url: str, limits: Limits, param: str) -> Picture:
    """The picture of a data URI.

    Args:
        param: the field that holds it, for errors.

    Raises:
        Refusal: 400 for another kind of URL, for what is not base64 or no image of `FORMATS`; 413 over a limit.
    """
    content = _content(url, limits.image_bytes, param)
    try:
        with warnings.catch_warnings():
            # Pillow warns of what `limits.pixels` decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                # A phone's photo with a second one behind it opens as "MPO", a name that opens nothing. It is a JPEG.
                form, size = "JPEG" if image.format == "MPO" else str(image.format), image.size
        check_sides(size, param)
    except (Image.DecompressionBombError, ImageUnreadable) as error:
        raise _too_large(f"{param}: {one_line(error)}", param) from error
    except Exception as error:  # every decoder has errors of its own
        raise Refusal(
            400,
            f"{param}: this is no image that can be read; send one of {', '.join(FORMATS)}",
            code="invalid_image",
            param=param,
        ) from error
    if size[0] * size[1] > limits.pixels or max(size) > limits.side:
        raise _too_large(
            f"{param}: {size[0]} x {size[1]} are {size[0] * size[1]:,} pixels, and this server takes "
            f"{limits.pixels:,}, and {limits.side:,} on a side; make the image smaller",
            param,
        )
    return Picture(content, form, size)


def _content(url: str, most: int, param: str) -> bytes:
    head, comma, _ = url[:_LONGEST_HEAD].partition(",")
    if head[:5].lower() != "data:":
        raise Refusal(
            400,
            f"{param} is {one_line(url, 60)}: images are taken as data URIs (data:image/png;base64,...); this server "
            "fetches nothing",
            code="url_not_supported",
            param=param,
        )
    if not comma or not head.lower().endswith(";base64"):
        raise Refusal(400, f"{param}: expected data:image/...;base64,...", code="invalid_image", param=param)
    encoded = len(url) - len(head) - 1
    if encoded // 4 * 3 > most + 3:
        raise _too_large(f"{param}: more than the {most:,} bytes that this server takes of an image", param)
    try:
        return base64.b64decode(url[len(head) + 1 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{param}: not base64 ({error})", code="invalid_image", param=param) from error


def _too_large(message: str, param: str) -> Refusal:
    return Refusal(413, message, code="image_too_large", param=param)
