import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.scienceqa import ScienceQA
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"scienceqa/images/test/{pid}/image.png" for pid in (5, 6, 7)]
LETTER = "\nAnswer with the option's letter from the given choices directly."


def test_prompts(tmp_path):
    root = data_root(tmp_path, "scienceqa")
    items = ready_items(ScienceQA(), root, IMAGES)
    assert [item.question.question_id for item in items] == ["4", "5", "6", "7"]
    assert items[0].question.prompt == "Which of these is a mammal?\nA. frog\nB. whale" + LETTER
    assert items[0].question.images == ()
    assert items[1].question.prompt == (
        "<image>\nContext: A parachute hangs in a wind tunnel.\nFigure: a parachute.\nWhich could the test show?\n"
        "A. its weight\nB. how it swings\nC. its colour" + LETTER
    )
    paper = ScienceQA().items(root, "instructblip")
    assert paper[0].question.prompt == "Question: Which of these is a mammal? Options: (a) frog (b) whale. Answer:"
    assert paper[1].question.prompt == (
        "<image>\nContext: A parachute hangs in a wind tunnel.\nFigure: a parachute. Question: Which could the test "
        "show? Options: (a) its weight (b) how it swings (c) its colour. Answer:"
    )
    assert paper[3].question.candidates == ("0:4", "1:3", "2:2", "3:1", "4:0")


@pytest.mark.parametrize(
    ("texts", "right", "unparsed"),
    [
        (["B", "B. how it swings", "The answer is A.", "E"], (1, 1, 1, 1), 0),
        (["The answer is B because it breathes", "A", "B", "E. 4:0"], (1, 0, 0, 1), 0),
        # LLaVA's parser: no lower case, no bare option text, no letter beyond the options.
        (["b", "how it swings", "the answer is A", "F"], (0, 0, 0, 0), 4),
        (["C", "", "Así es: A", "Answer: E"], (0, 0, 0, 0), 4),
        # Nor a letter on a line of its own, nor an answer stated twice, nor one that ends with the letter.
        (["B\nbecause it breathes", "The answer is B", "The answer is A. The answer is A.", "E\n"], (0, 0, 0, 0), 4),
    ],
)
def test_llavas_parser(tmp_path, texts, right, unparsed):
    items = ready_items(ScienceQA(), data_root(tmp_path, "scienceqa"), IMAGES)
    scores = ScienceQA().score(items, answers_to(items, texts))
    assert scores.metrics["accuracy"].items == right
    # Question 4 has no image.
    assert scores.headline == "accuracy_img"
    assert scores.metrics["accuracy_img"].items == right[1:]
    assert scores.unparsed == unparsed


def test_ranked(tmp_path):
    items = ScienceQA().items(data_root(tmp_path, "scienceqa"), "instructblip")
    ranked = [[-2, -1], [-2, -1, -3], [-2, -1], [-5, -4, -3, -2, -1]]
    scores = ScienceQA().score(items, answers_to(items, ["whale", "how it swings", "no", "4:0"], ranked))
    assert scores.metrics["accuracy"].items == (1, 1, 0, 1)


def test_another_split(tmp_path):
    root = data_root(tmp_path, "scienceqa")
    edited(root / "scienceqa/pid_splits.json", '"test"', '"minitest"')
    with pytest.raises(DataError, match=r"pid_splits\.json: no 'test', only train, val, minitest"):
        ScienceQA().items(root)
