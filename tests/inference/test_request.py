"""Requests and rankings answer simple questions about themselves."""

from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.inference import Ranking, Request

PICTURE = Image.new("RGB", (2, 2))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (None, []),
        ("a.png", ["a.png"]),
        (Path("a.png"), [Path("a.png")]),
        (PICTURE, [PICTURE]),
        (["a.png", PICTURE], ["a.png", PICTURE]),
        (("a.png",), ["a.png"]),
        ([], []),
    ],
)
def test_images_of_every_form_are_a_list(images, expected):
    assert Request("Why?", images).image_list == expected


def test_the_best_candidate_is_the_first_of_the_likeliest():
    assert Ranking((-3.0, -1.0, -1.0), None, None).best == 1
    assert Ranking((-0.5,), 2, 0.1).best == 0
