import json

import pytest

from llava_mocle.io.text import not_unicode, one_line


@pytest.mark.parametrize("text", ["", "a plain question", "ß 漢字 😀", "a\x00b", json.loads('"\\ud83d\\ude00"')])
def test_text_that_utf8_holds_is_fine(text):
    assert not_unicode(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.loads('"what \\ud83d?"'), "half a surrogate pair (U+D83D) at character 5"),
        ("\udc80", "half a surrogate pair (U+DC80) at character 0"),
    ],
)
def test_half_a_surrogate_pair_is_named_with_its_place(text, told):
    assert not_unicode(text) == told


def test_a_value_fits_on_one_line():
    assert one_line("images/ä.png") == "images/ä.png"
    assert one_line(3) == "3"
    assert one_line("a\nb") == r"'a\nb'"
    assert one_line("a\ud83d") == r"'a\ud83d'"
    assert one_line("x" * 200) == "x" * 200
    assert one_line("a" * 5000 + "z" * 5000, most=40) == "a" * 20 + "..." + "z" * 10
