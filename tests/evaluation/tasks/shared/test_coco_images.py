from pathlib import Path

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.coco_images import coco_image


@pytest.mark.parametrize("image_id", [42, "42", "000042"])
def test_twelve_digits(image_id):
    assert coco_image(Path("a"), "COCO_val2014_", {"image_id": image_id}, "here") == Path(
        "a/COCO_val2014_000000000042.jpg"
    )


def test_no_number():
    with pytest.raises(DataError, match="here: image_id is 'x1', expected the number of a COCO image"):
        coco_image(Path("a"), "", {"image_id": "x1"}, "here")
