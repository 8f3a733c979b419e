"""VQA-RAD, SLAKE and PathVQA, which share all but their files."""

import pytest

from llava_mocle.data.formats.medical import VQA_RAD_PUBLIC
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.medical_qa import PathVqa, Slake, VqaRad
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

ROWS = ["vqa_rad/images/synpic1.jpg", "vqa_rad/images/synpic2.jpg"]


def test_llava_rows(tmp_path):
    root = data_root(tmp_path, "vqa_rad")
    items = ready_items(VqaRad(), root, ROWS)
    # An id that repeats gets a number; the turn stays as it is, the mark for the image included.
    assert [item.question.question_id for item in items] == [
        "synpic1-0",
        "synpic1-1",
        "synpic2",
        "synpic3",
        "synpic4",
        "synpic5",
    ]
    assert items[2].question.prompt == "Is the aorta dilated?\n<image>"
    assert VqaRad().items(root, "instructblip") == items


def test_open_and_closed_scores(tmp_path):
    items = ready_items(VqaRad(), data_root(tmp_path, "vqa_rad"), ROWS)
    texts = ["Left lobe, left side", "Yes, a fracture", "Yes.", "", "It is normal", "Not sure, maybe no"]
    scores = VqaRad().score(items, answers_to(items, texts))
    # Open. "in left upper lobe" ("the" is an article): left and lobe of 4 words. Then nothing.
    assert scores.headline == "open_recall"
    assert scores.metrics["open_recall"].items == pytest.approx((0.5, 0))
    # LLaVA-Med: left, lobe, left count 3, in and upper are missing: 3 / (3 + 2).
    assert scores.metrics["open_recall_legacy"].items == pytest.approx((0.6, 0))
    # Closed, truth no, yes, yes, no: "Yes, a fracture" is wrong, "Yes." right, "It is normal" unread, the last right.
    assert scores.metrics["closed_accuracy"].items == (0, 1, 0, 1)
    # LLaVA-Med leaves the first one out (it contains yes); "normal" holds "no" by letters and is left out too.
    legacy = scores.metrics["closed_accuracy_legacy"]
    assert (legacy.value, legacy.n, legacy.items) == (100.0, 2, None)
    # Since December 2023 both are wrong there.
    assert scores.metrics["closed_accuracy_legacy_2024"].items == (0, 1, 0, 1)
    assert scores.unparsed == 2  # the empty open answer, and "It is normal"


def test_llava_meds_count_can_lead(tmp_path):
    items = ready_items(VqaRad(), data_root(tmp_path, "vqa_rad"), ROWS)
    answers = answers_to(items, ["left", "Yes", "Yes.", "", "no", "no"])
    strict, task = VqaRad().score(items, answers), VqaRad()
    task.legacy = True
    legacy = task.score(items, answers)
    assert legacy.headline == next(iter(legacy.metrics)) == "open_recall_legacy"
    assert legacy.metrics == strict.metrics
    assert strict.headline == "open_recall"


def test_authors_file_of_vqa_rad(tmp_path):
    root = data_root(tmp_path, "vqa_rad")
    (root / "vqa_rad/test.json").unlink()
    items = ready_items(VqaRad(), root, ["vqa_rad/VQA_RAD Image Folder/synpic29265.jpg"])
    assert [(item.question.question_id, item.reference) for item in items] == [("1", "No"), ("2", "2")]
    assert [item.keys["answer_type"] for item in items] == ["CLOSED", "OPEN"]
    scores = VqaRad().score(items, answers_to(items, ["no", "There are two"]))
    assert scores.metrics["closed_accuracy"].value == 100
    assert scores.metrics["open_recall"].value == 100


def test_english_of_slake(tmp_path):
    root = data_root(tmp_path, "slake")
    items = ready_items(Slake(), root, ["slake/imgs/xmlab1/source.jpg", "slake/imgs/xmlab2/source.jpg"])
    assert [item.question.question_id for item in items] == [11934, 11936, 11937]
    scores = Slake().score(items, answers_to(items, ["No", "CT.", "The liver"]))
    assert scores.metrics["closed_accuracy"].items == (1, 1)
    assert scores.metrics["open_recall"].value == pytest.approx(50)
    # LLaVA-Med counts a closed answer without yes or no as wrong, whatever the question.
    assert scores.metrics["closed_accuracy_legacy"].value == pytest.approx(50)


def test_pathvqa(tmp_path):
    items = ready_items(PathVqa(), data_root(tmp_path, "pathvqa"), ["pathvqa/images/test_0001.jpg"])
    scores = PathVqa().score(items, answers_to(items, ["yes", "spleen"]))
    assert (scores.metrics["closed_accuracy"].value, scores.metrics["open_recall"].value) == (100, 100)
    closed = PathVqa().score(items[:1], answers_to(items[:1], ["no"]))
    assert (closed.metrics["open_recall"].value, closed.metrics["closed_accuracy"].value) == (None, 0)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="2 of its files are missing") as error:
        VqaRad().check(tmp_path)
    assert VQA_RAD_PUBLIC in str(error.value)


@pytest.mark.parametrize(
    ("task", "name", "old", "new", "message"),
    [
        (VqaRad, "test.json", '"answer_type": "OPEN", ', "", "record 0: no 'answer_type', only id, image"),
        (VqaRad, "test.json", '"OPEN"', '"open-ended"', "record 0: answer_type is 'open-ended', expected OPEN"),
        (Slake, "test.json", '"en"', '"zh"', "none of its 4 records belongs to the English test split"),
        (PathVqa, "test.json", '"conversations"', '"dialog"', "record 0: no 'conversations', expected a LLaVA row"),
        (PathVqa, "test.json", '"from": "gpt"', '"from": "human"', "should be one human turn and one gpt turn"),
    ],
)
def test_bad_files(tmp_path, task, name, old, new, message):
    root = data_root(tmp_path, task.folder)
    edited(root / task.folder / name, old, new)
    with pytest.raises(DataError, match=message):
        task().items(root)
