"""Images as an engine must get them: its own processor does not do to them what the model was trained with."""

import io
from typing import TYPE_CHECKING

from llava_mocle.data.image_limits import check_shape
from llava_mocle.data.images import load_image
from llava_mocle.export.images import prepare
from llava_mocle.serving.pictures import Picture, data_uri

if TYPE_CHECKING:
    from llava_mocle.export.bundle import ImageFacts

# PNG keeps every pixel; packing it harder would cost more time than the bytes on their short way.
_LEVEL = 1


def engine_uri(picture: Picture, facts: "ImageFacts") -> str:
    """The data URI of a picture for an engine.

    Raises:
        ImageUnreadable: it cannot be decoded, which is only known where it has to be.
        ImageOverLimit: it is so long and thin that padding it would fill the memory.
    """
    if facts.aspect_ratio != "pad":
        return picture.data_uri()
    check_shape(picture.size, facts.aspect_ratio, None)
    buffer = io.BytesIO()
    prepare(load_image(picture.image()), facts).save(buffer, "PNG", compress_level=_LEVEL)
    return data_uri(buffer.getvalue(), "PNG")
