import shutil

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.mme import COGNITION, PERCEPTION
from llava_mocle.evaluation.tasks.mme import FOLDER, Mme
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, make_images, ready_items

APART = ("posters", "celebrity", "scene", "landmark", "artwork")  # have the folders images and questions_answers_YN
IMAGES = [
    f"{FOLDER}/{subtask}/images/10.jpg" if subtask in APART else f"{FOLDER}/{subtask}/0001.png"
    for subtask in PERCEPTION + COGNITION
]
IMAGES.append(f"{FOLDER}/existence/0002.jpg")


def test_both_layouts_and_prompts(tmp_path):
    root = data_root(tmp_path, "MME")
    items = ready_items(Mme(), root, IMAGES)
    assert len(items) == 30
    assert items[3].question.question_id == "existence/0002.jpg"
    assert [item.question.key for item in items[:4]] == [
        "existence/0001.png-0",
        "existence/0001.png-1",
        "existence/0002.jpg-0",
        "existence/0002.jpg-1",
    ]
    assert {item.question.key for item in items} >= {"artwork/images/10.jpg-0", "OCR/0001.png-1"}
    # LLaVA's suffix instead of the request, which one file has behind two spaces.
    assert items[2].question.prompt == (
        "Is there a cup in this image?\nAnswer the question using a single word or phrase."
    )
    assert (items[2].reference, items[3].reference) == ("yes", "no")
    paper = Mme().items(root, "instructblip")
    assert paper[3].question.prompt == "Is there a train in this image? Please answer yes or no."


def test_one_more_folder(tmp_path):
    root = data_root(tmp_path, "MME")
    make_images(*(root / image for image in IMAGES))
    expected = [item.question.key for item in Mme().items(root)]
    shutil.move(root / FOLDER, root / "MME/all")
    shutil.move(root / "MME/all", root / FOLDER / "MME_Benchmark")
    items = Mme().items(root)
    assert [item.question.key for item in items] == expected
    assert all(item.question.images[0].is_file() for item in items)


def test_scores(tmp_path):
    items = ready_items(Mme(), data_root(tmp_path, "MME"), IMAGES)
    right = {item.question.key: "Yes" if item.reference == "yes" else "No." for item in items}
    texts = right | {
        "existence/0001.png-0": "yes, it is",
        "existence/0001.png-1": "Not at all",  # "not " holds no
        "existence/0002.jpg-0": "I think yes",  # beyond the first four characters: unparsed, wrong
        "artwork/images/10.jpg-0": "",  # unparsed, wrong
        "artwork/images/10.jpg-1": "Yes",
    }
    scores = Mme().score(items, answers_to(items, [texts[item.question.key] for item in items]))
    # existence: 3 of 4 questions, 1 of 2 images: 75 + 50. artwork: 0. The twelve others: 200 each.
    assert scores.metrics["existence"].value == pytest.approx(125)
    assert scores.metrics["artwork"].value == 0
    assert scores.metrics["OCR"].value == pytest.approx(200)
    assert scores.metrics["perception"].value == pytest.approx(125 + 8 * 200)
    assert scores.metrics["cognition"].value == pytest.approx(800)
    assert scores.headline == "total"
    assert scores.metrics["total"].value == pytest.approx(125 + 12 * 200)
    assert scores.unparsed == 2
    # Of 30 questions existence/0002-0 and both of artwork are wrong.
    assert scores.metrics["accuracy"].value == pytest.approx(90)
    low, high = scores.metrics["existence"].interval
    # A drawn image counts as often as it was drawn: 0002 twice gives 50 + 0, 0001 twice 200.
    assert (low, high) == (50, 200)


def test_parts_of_the_benchmark(tmp_path):
    items = ready_items(Mme(), data_root(tmp_path, "MME"), IMAGES)
    scores = Mme().score(items[:3], answers_to(items[:3], ["Yes", "No", "No"]))
    # 0002 has one of its two questions: it does not count.
    assert (scores.metrics["total"].value, scores.metrics["existence"].n) == (200, 2)
    assert scores.metrics["cognition"].value is None
    # It counts for the accuracy: 2 of 3 questions.
    assert (scores.metrics["accuracy"].value, scores.metrics["accuracy"].n) == (pytest.approx(200 / 3), 3)
    assert Mme().score([], []).metrics["total"].value is None


@pytest.mark.parametrize("count", [4, 12, 30])
def test_all_right_leaves_no_doubt(tmp_path, count):
    """Two images of the first subtask, those of five subtasks, all: images are drawn within their subtask."""
    items = ready_items(Mme(), data_root(tmp_path, "MME"), IMAGES)[:count]
    scores = Mme().score(items, answers_to(items, [item.reference for item in items]))
    for name in ("total", "perception"):
        metric = scores.metrics[name]
        assert metric.interval == (metric.value, metric.value)
    assert scores.metrics["total"].value == {4: 200, 12: 1000, 30: 2800}[count]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("count/0001.txt", "\tYes", " Yes", r"count/0001\.txt, line 1: .*expected a question, a tab, and Yes or No"),
        ("count/0001.txt", "\tNo\n", "\tNo\nAgain?\tNo\n", r"count/0001\.txt: found 3 questions, expected two"),
    ],
)
def test_bad_questions(tmp_path, name, old, new, message):
    root = data_root(tmp_path, "MME")
    make_images(*(root / image for image in IMAGES))
    edited(root / FOLDER / name, old, new)
    with pytest.raises(DataError, match=message):
        Mme().items(root)


def test_what_is_missing(tmp_path):
    root = data_root(tmp_path, "MME")
    make_images(*(root / image for image in IMAGES[1:]))
    with pytest.raises(DataError, match=r"existence/0001\.txt: no image 0001 with one of the endings"):
        Mme().items(root)
    shutil.rmtree(root / FOLDER / "existence")
    with pytest.raises(DataError, match="MME has the subtask existence"):
        Mme().items(root)
