import re

import pytest

from llava_mocle.data.formats.lavis_text import caption_text, question_text

MARKS = r"[.!\"()*#:;~]"


@pytest.mark.parametrize(
    ("raw", "question", "caption"),
    [
        ("What is Dr. Who's no. 1?", "what is dr who's no 1?", "what is dr who's no 1?"),
        ("A dog (black)runs!", "a dog blackruns", "a dog black runs"),
        ("  Ein  Café\n", "ein café", "ein café"),
        ("...", "", ""),
    ],
)
def test_by_hand(raw: str, question: str, caption: str) -> None:
    assert question_text(raw) == question
    assert caption_text(raw) == caption


def test_marks_one_by_one() -> None:
    """Each printable ASCII character, against the rule as a regular expression."""
    for code in range(33, 127):
        raw = f"a{chr(code)}b"
        assert question_text(raw) == re.sub(MARKS, "", raw.lower())
        assert caption_text(raw) == re.sub(MARKS, " ", raw.lower())


def test_fifty_words() -> None:
    words = [f"w{number}" for number in range(60)]
    assert question_text(" ".join(words)) == caption_text(" ".join(words)) == " ".join(words[:50])
