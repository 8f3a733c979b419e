import pytest

from llava_mocle.data.conversation import (
    Turn,
    marked_prompt,
    place_images,
    row_images,
    row_turns,
    shown_images,
    written_turns,
)
from llava_mocle.errors import DataError
from tests.data.conftest import make_row


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("What?\n<image>", "<image>\nWhat?"),
        ("What <image> is it? \n", "<image>\nWhat  is it?"),
        ("  <image>  ", "<image>"),
        (" a <image> b <image> ", "<image>\n<image>\na  b"),
        ("<image><image>", "<image>\n<image>"),
        ("  no image, not stripped \n", "  no image, not stripped \n"),
        ("", ""),
    ],
)
def test_image_tags_move_to_the_front(text: str, placed: str) -> None:
    assert place_images(text) == placed


@pytest.mark.parametrize(("image", "paths"), [(None, []), ("a.png", ["a.png"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_images_of_a_row(image: object, paths: list[str]) -> None:
    assert row_images({"image": image}) == paths
    assert row_images({}) == []


def test_first_turn_of_the_assistant_is_dropped() -> None:
    row = make_row("q <image>", "a", image="x")
    row["conversations"].insert(0, {"from": "gpt", "value": "hello"})
    assert row_turns(row) == [Turn("human", "<image>\nq"), Turn("gpt", "a")]
    assert written_turns(row) == [Turn("human", "q <image>"), Turn("gpt", "a")]


def test_images_go_to_the_turns_that_show_them() -> None:
    row = make_row("<image> x <image>", "a", "q", "b", "<image>", "c", image=["1", "2", "3"])
    assert shown_images(row) == [["1", "2"], [], [], [], ["3"], []]
    row["conversations"].insert(0, {"from": "gpt", "value": "<image> hello"})
    assert shown_images(row) == [["1", "2"], [], [], [], ["3"], []]
    with pytest.raises(DataError, match="3 <image> tags for 2 images"):
        shown_images(row | {"image": ["1", "2"]})


def test_a_prompt_has_one_mark_for_each_image() -> None:
    assert marked_prompt("q", 0) == "q"
    assert marked_prompt("q", 2) == "<image>\n<image>\nq"
    assert marked_prompt("a <image> b", 1) == "a <image> b"
    with pytest.raises(DataError, match="prompt 'a <image>': 1 <image> marks for 2 images"):
        marked_prompt("a <image>", 2)
