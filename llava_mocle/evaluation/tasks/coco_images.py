"""Names of COCO's image files."""

from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError


def coco_image(folder: Path, prefix: str, image_id: Any, place: str) -> Path:
    """The image numbered `image_id`: its number in twelve digits behind `prefix`.

    Raises:
        DataError: `image_id` is no number.
    """
    try:
        number = int(image_id)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: image_id is {image_id!r}, expected the number of a COCO image.") from error
    return folder / f"{prefix}{number:012d}.jpg"
