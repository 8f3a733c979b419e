import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.iconqa import FOLDER, IconQA
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"{FOLDER}/iconqa/test/choose_txt/{pid}/image.png" for pid in (11, 12, 13)]


def test_the_test_questions_with_text_choices(tmp_path):
    root = data_root(tmp_path, "iconqa")
    items = ready_items(IconQA(), root, IMAGES)
    assert [item.question.question_id for item in items] == ["12", "11", "13"]
    assert items[1].question.prompt == (
        "Which shape is this?\nA. square\nB. circle\nAnswer with the option's letter from the given choices directly."
    )
    assert [item.reference for item in items] == [0, 1, 2]
    paper = IconQA().items(root, "instructblip")
    assert paper[1].question.prompt == "Question: Which shape is this? Options: (a) square (b) circle. Short answer:"
    assert paper[1].question.candidates == ("square", "circle")


@pytest.mark.parametrize(
    ("texts", "right", "unparsed"),
    [
        (["A", "b.", "(C)"], (1, 1, 1), 0),
        (["Answer: A", "B. circle", "B"], (1, 1, 1), 0),  # 13: B and C are both "a sun"
        (["Three.", "It is a circle", "a sun or a moon"], (1, 1, 0), 1),  # two choices stand in the last answer
        (["C", "square", "An étoile!"], (0, 0, 0), 0),
        (["", "E", "maybe"], (0, 0, 0), 3),
    ],
)
def test_letters_and_texts(tmp_path, texts, right, unparsed):
    items = ready_items(IconQA(), data_root(tmp_path, "iconqa"), IMAGES)
    scores = IconQA().score(items, answers_to(items, texts))
    assert scores.metrics["accuracy"].items == right
    assert scores.metrics["accuracy"].value == pytest.approx(100 * sum(right) / 3)
    assert scores.unparsed == unparsed


def test_ranked(tmp_path):
    root = data_root(tmp_path, "iconqa")
    items = IconQA().items(root, "instructblip")
    # Right; a tie, which is wrong; the likeliest choice has the right one's text.
    ranked = [[-1, -2, -3], [-1, -1], [-5, -1, -2, -3]]
    scores = IconQA().score(items, answers_to(items, ["3", "square", "a sun"], ranked))
    assert scores.metrics["accuracy"].items == (1, 0, 1)
    assert scores.unparsed == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("problems.json", '"answer": 1', '"answer": 2', "problem 11: the answer is 2 with 2 options"),
        ("pid_splits.json", '"12", "11"', '"12", "21"', "problem 21: field 'ques_type' is 'fill_in_blank'"),
        ("pid_splits.json", "choose_txt_test", "choose_txt_val", "no 'choose_txt_test', only choose_txt_train"),
        ("pid_splits.json", '"12", "11"', '"12", "99"', "problems.json: no '99'"),
    ],
)
def test_bad_files(tmp_path, name, old, new, message):
    root = data_root(tmp_path, "iconqa")
    edited(root / FOLDER / name, old, new)
    with pytest.raises(DataError, match=message):
        IconQA().items(root)
