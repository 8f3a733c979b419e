"""Requests and rankings answer simple questions about themselves."""

from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.errors import DataError
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "Why \ud83d?"}, r"prompt 'Why \\ud83d\?' holds half a surrogate pair \(U\+D83D\) at character 4"),
        ({"prompt": None}, "prompt is None, expected a text"),
        ({"prompt": "Why?", "route_text": "\udcff"}, "route_text .* holds half a surrogate pair"),
        ({"prompt": "Why?", "route_text": 3}, "route_text is 3, expected a text"),
    ],
)
def test_texts_that_no_tokenizer_takes_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Request(**fields)


def test_the_best_candidate_is_the_first_of_the_likeliest():
    assert Ranking((-3.0, -1.0, -1.0), None, None).best == 1
    assert Ranking((-0.5,), 2, 0.1).best == 0
