from dataclasses import replace

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.textvqa import TextVqa, prompt_with_tokens
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["textvqa/train_images/00a1b2.jpg", "textvqa/train_images/00c3.jpg"]


def test_ocr_tokens_stand_in_the_prompt_but_do_not_route(tmp_path):
    root = data_root(tmp_path, "textvqa")
    first = ready_items(TextVqa(), root, IMAGES)[0].question
    assert first.prompt == (
        "What is written on the boat?\nReference OCR token: NORTH, STAR, é\n"
        "Answer the question using a single word or phrase."
    )
    assert first.route_text == "What is written on the boat?\nAnswer the question using a single word or phrase."
    paper = TextVqa().items(root, "instructblip")
    assert paper[0].question.prompt == (
        "OCR tokens: NORTH, STAR, é. Question: what is written on the boat? Short answer:"
    )
    assert paper[0].question.route_text == "Question: what is written on the boat? Short answer:"
    assert "t29. Question" in paper[2].question.prompt
    assert "t34" in TextVqa().items(root)[2].question.prompt


def test_images_without_ocr_tokens():
    assert prompt_with_tokens("Who?", [], "llava").startswith("Who?\nReference OCR token: \nAnswer the question")
    assert prompt_with_tokens("Who?", [], "instructblip") == "OCR tokens: . Question: Who? Short answer:"


def test_soft_accuracy(tmp_path):
    items = TextVqa().items(data_root(tmp_path, "textvqa"))
    scores = TextVqa().score(items, answers_to(items, ["North Star.", "Joe's", "1000", ""]))
    # Three of ten agree: (3 * 2/3 + 7 * 1) / 10. Two of ten: (2 * 1/3 + 8 * 2/3) / 10. "1,000" is "1000".
    assert scores.metrics["accuracy"].items == pytest.approx((0.9, 0.6, 1.0, 0.0))
    assert scores.metrics["accuracy"].value == pytest.approx(62.5)
    assert scores.unparsed == 1
    # The evaluator compares silence too, and nothing is left of the letter "a" under its normaliser.
    letter = [replace(items[0], reference=("a",) * 10)]
    assert TextVqa().score(letter, answers_to(letter, [""])).metrics["accuracy"].items == (1.0,)
    more = TextVqa().score(items, answers_to(items, ["star", "CAFÉ", "1,000!", "unanswerable"]))
    assert more.metrics["accuracy"].items == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("TextVQA_0.5.1_val.json", '"set_name": "val"', '"set_name": "train"', "record 0: field 'set_name' is 'train'"),
        ("TextVQA_0.5.1_val.json", '"answers"', '"replies"', "record 0: no 'answers'"),
        ("TextVQA_Rosetta_OCR_v0.2_val.json", '"00c3"', '"00c4"', "image 00c3 has no OCR tokens"),
        ("TextVQA_Rosetta_OCR_v0.2_val.json", '"data"', '"rows"', "no 'data'"),
    ],
)
def test_wrong_files(tmp_path, name, old, new, message):
    root = data_root(tmp_path, "textvqa")
    edited(root / "textvqa" / name, old, new)
    with pytest.raises(DataError, match=message):
        TextVqa().items(root)
