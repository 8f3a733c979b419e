import pytest

from llava_mocle.data.conversation import Turn, place_images, row_images, row_turns
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
