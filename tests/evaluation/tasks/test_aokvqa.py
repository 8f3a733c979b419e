import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.aokvqa import FILE, AokVqaChoice, AokVqaDirect
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"aokvqa/val2017/0000000000{number}.jpg" for number in (42, 43, 44)]


def test_direct_answers(tmp_path):
    root = data_root(tmp_path, "aokvqa")
    items = ready_items(AokVqaDirect(), root, [IMAGES[0], IMAGES[2]])
    # 22bB is marked as too difficult for direct answers.
    assert [item.question.question_id for item in items] == ["22aA", "22cC"]
    assert items[0].question.prompt.endswith("kite up?\nAnswer the question using a single word or phrase.")
    paper = AokVqaDirect().items(root, "instructblip")
    assert paper[0].question.prompt == "Question: What keeps the kite up? Short answer:"
    scores = AokVqaDirect().score(items, answers_to(items, ["wind", "Two."]))
    # Normalised, all ten said "wind", and two said "2"; letter by letter, two said "wind" and nobody "Two.".
    assert scores.headline == "accuracy_exact"
    assert scores.metrics["accuracy_exact"].items == pytest.approx((2 / 3, 0))
    assert scores.metrics["accuracy"].items == pytest.approx((1, 2 / 3))
    silent = AokVqaDirect().score(items, answers_to(items, ["", "windy"]))
    assert (silent.metrics["accuracy"].value, silent.unparsed) == (0, 1)


@pytest.mark.parametrize(
    ("texts", "right", "unparsed"),
    [
        (["B", "c", "(A)"], (1, 1, 1), 0),
        (["The answer is B.", "C. oman", "two legs"], (1, 1, 1), 0),
        (["wind", "It is from Oman.", "D"], (1, 1, 0), 0),
        (["", "somewhere", "é 42"], (0, 0, 0), 3),
        # An article is no letter; the text names one choice.
        (["A gust of wind, I think", "E", "four"], (1, 0, 0), 1),
    ],
)
def test_letters_and_texts(tmp_path, texts, right, unparsed):
    root = data_root(tmp_path, "aokvqa")
    items = ready_items(AokVqaChoice(), root, IMAGES)
    assert items[0].question.prompt == (
        "What keeps the kite up?\nA. rope\nB. wind\nC. magnet\nD. water\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert items[0].question.candidates == ()
    scores = AokVqaChoice().score(items, answers_to(items, texts))
    assert scores.metrics["accuracy"].items == right
    assert scores.metrics["accuracy"].value == pytest.approx(100 * sum(right) / 3)
    assert scores.unparsed == unparsed


def test_ranked_choices(tmp_path):
    root = data_root(tmp_path, "aokvqa")
    items = AokVqaChoice().items(root, "instructblip")
    question = items[0].question
    assert question.prompt.startswith("Question: What keeps the kite up? Options: (a) rope")
    assert question.prompt.endswith(" (d) water. Short answer:")
    assert question.candidates == ("rope", "wind", "magnet", "water")
    # Right; wrong; a tie at the top, which gains nothing.
    ranked = [[-2.0, -1.0, -3.0, -4.0], [-1.0, -2.0, -3.0, -4.0], [-1.0, -1.0, -2.0, -2.0]]
    scores = AokVqaChoice().score(items, answers_to(items, ["wind", "peru", "two"], ranked))
    assert scores.metrics["accuracy"].items == (1, 0, 0)
    with pytest.raises(DataError, match="22aA"):
        AokVqaChoice().score(items, answers_to(items, ["wind", "peru", "two"]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"split": "val"', '"split": "train"', "record 0: field 'split' is 'train'"),
        ('"correct_choice_idx": 2', '"correct_choice_idx": 7', "record 1: the answer is 7"),
        ('"choices"', '"options"', "record 0: no 'choices'"),
    ],
)
def test_wrong_files(tmp_path, old, new, message):
    root = data_root(tmp_path, "aokvqa")
    edited(root / FILE, old, new)
    with pytest.raises(DataError, match=message):
        AokVqaChoice().items(root)
