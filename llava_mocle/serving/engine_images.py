"""Images as the engine must get them: its own processor crops what is not square, where the model was trained on
pictures that were padded."""

import io
from typing import TYPE_CHECKING

from llava_mocle.data.images import load_image, pad_to_square
from llava_mocle.serving.pictures import Picture, data_uri

if TYPE_CHECKING:
    from llava_mocle.export.bundle import ImageFacts

# PNG keeps every pixel; packing it harder would cost more time than the bytes on their short way.
_LEVEL = 1


def engine_uri(picture: Picture, facts: "ImageFacts") -> str:
    """The data URI of a picture for an engine.

    Raises:
        ImageUnreadable: it cannot be decoded, which is only known where it has to be.
    """
    width, height = picture.size
    if facts.aspect_ratio != "pad" or width == height:
        return picture.data_uri()
    square = pad_to_square(load_image(picture.image()), facts.background)
    buffer = io.BytesIO()
    square.save(buffer, "PNG", compress_level=_LEVEL)
    return data_uri(buffer.getvalue(), "PNG")
