import json

import pytest

from llava_mocle.io.text import not_unicode


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
