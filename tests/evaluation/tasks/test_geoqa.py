import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.geoqa import GeoQA
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"geoqa/images/test/{number}.png" for number in range(3)]


def test_the_published_prompt_is_asked(tmp_path):
    root = data_root(tmp_path, "geoqa")
    items = ready_items(GeoQA(), root, IMAGES)
    assert [item.reference for item in items] == ["B", "A", "C"]
    assert items[0].question.prompt.startswith("\nFirst perform reasoning, then finally select the question")
    assert items[0].question.prompt.endswith("Choices:\nA:40°\nB:80°\nC:100°\nD:120°")
    assert GeoQA().items(root, "instructblip") == items


@pytest.mark.parametrize(
    ("texts", "right", "unparsed"),
    [
        (["2 x 40 = 80. Answer:B", "Therefore, the correct answer is option A.", "option C is selected"], (1, 1, 1), 0),
        (["the answer is option B", "Therefore the answer is (A) 5.", "So it is C. 2 is the diameter."], (1, 1, 0), 1),
        (["Answer:A", "Answer: A", "The diameter is C."], (0, 0, 1), 1),
        (["", "5", "a C 2π"], (0, 0, 0), 3),
    ],
)
def test_patterns(tmp_path, texts, right, unparsed):
    items = ready_items(GeoQA(), data_root(tmp_path, "geoqa"), IMAGES)
    scores = GeoQA().score(items, answers_to(items, texts))
    assert scores.metrics["accuracy"].items == right
    assert scores.unparsed == unparsed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"question_id": 1, "text": "A"}', "", r"test_questions\.jsonl, record 1: question 1 has no answer in"),
        (
            '"text": "C"',
            '"text": "2"',
            r"test_answers\.jsonl, record 2: field 'text' is '2', expected A or B or",
        ),
    ],
)
def test_bad_answers(tmp_path, old, new, message):
    root = data_root(tmp_path, "geoqa")
    edited(root / "geoqa/test_answers.jsonl", old, new)
    with pytest.raises(DataError, match=message):
        GeoQA().items(root)
