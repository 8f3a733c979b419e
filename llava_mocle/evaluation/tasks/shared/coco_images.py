"""Names of COCO's image files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.official_files import ID, field


def coco_image(folder: Path, prefix: str, record: Mapping[str, Any], place: str) -> Path:
    """The image of the record's `image_id`: its number in twelve digits behind `prefix`.

    Raises:
        DataError: `image_id` is no number.
    """
    image_id = field(record, "image_id", place, ID)
    try:
        number = int(image_id)
    except ValueError as error:
        raise DataError(f"{place}: image_id is {image_id!r:.60}, expected the number of a COCO image.") from error
    return folder / f"{prefix}{number:012d}.jpg"
