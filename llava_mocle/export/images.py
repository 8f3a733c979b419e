"""An image as an engine must get it: what our own preparation does before a model's processor, done beforehand."""

from typing import Any

from PIL import Image

from llava_mocle.data.images import mean_colour, pad_to_square
from llava_mocle.export.bundle import ImageFacts


def image_facts(config: Any, image_processor: Any, aspect_ratio: str, tokens: int | None) -> ImageFacts:
    """What a bundle says of images.

    Args:
        config: the model's configuration.
        image_processor: the model's own.
        aspect_ratio: how the model was trained: "pad" or "square".
        tokens: places that an image takes in the prompt.
    """
    size = getattr(config.vision_config, "image_size", None)
    return ImageFacts(aspect_ratio, mean_colour(image_processor), size, tokens, _filter(image_processor, size))


def prepare(image: Image.Image, facts: ImageFacts) -> Image.Image:
    """The image to send to an engine.

    Engines have other code for resizing than ours, and it rounds otherwise. So an image that was made square is resized
    here, and an engine has nothing left to resize.

    Args:
        image: RGB (`data.images.load_image`).
    """
    if facts.aspect_ratio != "pad":
        return image
    square = pad_to_square(image, facts.background)
    if facts.resample is None or facts.size is None or square.width == facts.size:
        return square
    return square.resize((facts.size, facts.size), Image.Resampling(facts.resample))


def _filter(image_processor: Any, size: int | None) -> int | None:
    """Pillow's number of the filter by which a processor makes the side of a square image `size`; None: it does not."""
    target = dict(getattr(image_processor, "size", None) or {})
    sides = {side for side in (target.get(key) for key in ("shortest_edge", "height", "width")) if side}
    resample = getattr(image_processor, "resample", None)
    if not getattr(image_processor, "do_resize", True) or sides != {size} or resample is None:
        return None
    return int(resample)
