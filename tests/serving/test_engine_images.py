"""Images on their way to an engine."""

import pytest

from llava_mocle.data.image_limits import ImageOverLimit
from llava_mocle.export import images
from llava_mocle.export.bundle import ImageFacts
from llava_mocle.serving.engine_images import engine_uri
from llava_mocle.serving.pictures import picture_of
from llava_mocle.serving.question import Limits
from tests.serving.pngs import png, uri


def test_a_line_of_pixels_is_refused_before_it_is_padded(monkeypatch):
    """100,000 x 1 pixels are few; their square would take 40 GB."""

    def pad(*arguments):
        raise AssertionError("an image is padded")

    monkeypatch.setattr(images, "pad_to_square", pad)
    picture = picture_of(uri(png(100_000, 1)), Limits(side=100_000), "url")
    with pytest.raises(ImageOverLimit, match="100000 x 1 pixels"):
        engine_uri(picture, ImageFacts("pad", (1, 2, 3), None, 4))
    assert engine_uri(picture, ImageFacts("square", (1, 2, 3), None, 4)) == picture.data_uri()
