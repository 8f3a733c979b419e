import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.suite import score_task
from llava_mocle.evaluation.tasks.pope import Pope
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["pope/val2014/COCO_val2014_000000000007.jpg", "pope/val2014/COCO_val2014_000000000042.jpg"]


def test_prompts_and_ids(tmp_path):
    root = data_root(tmp_path, "pope")
    items = ready_items(Pope(), root, IMAGES)
    assert [item.question.question_id for item in items] == [1, 2, 3, 4, 20000001, 10000001]  # LLaVA's
    assert [item.question.key for item in items[3:]] == ["adversarial-4", "popular-1", "random-1"]
    assert items[0].question.prompt.endswith("in the image?\nAnswer the question using a single word or phrase.")
    assert Pope().items(root, "instructblip")[0].question.prompt == "Is there a kite in the image?"


@pytest.mark.parametrize(
    ("texts", "f1", "accuracy", "unparsed"),
    [
        # Truth: yes, no, yes, no.
        (["Yes", "no", "Yes.", "No."], 100, 100, 0),
        # "no" inside words says nothing; "not" does; only the first sentence is read.
        (["I know it is", "There is not any", "Yes. No more", "Nothing"], 100 * 2 * 2 / 5, 75, 0),
        # What is neither is taken for yes, silence too: yes four times, two of them right; f1 = 2 * 2 / (4 + 2).
        (["", "é", "7", " "], 100 * 2 / 3, 50, 2),
        (["no", "no", "no", "no"], 0, 50, 0),
    ],
)
def test_f1(tmp_path, texts, f1, accuracy, unparsed):
    items = Pope().items(data_root(tmp_path, "pope"))
    scores = Pope().score(items, answers_to(items, [*texts, "yes", "no"]))
    assert scores.metrics[scores.headline].value == pytest.approx(f1)
    assert scores.metrics["accuracy_adversarial"].value == pytest.approx(accuracy)
    assert scores.metrics["f1_popular"].value == 100
    assert scores.metrics["accuracy_random"].value == 100
    assert scores.unparsed == unparsed


def test_silence_is_a_yes_and_is_counted(tmp_path):
    items = Pope().items(data_root(tmp_path, "pope"))
    entry = score_task(Pope(), items, answers_to(items, [""] * len(items)))
    # Truth of the adversarial split: yes, no, yes, no. Two of four yeses are right: 2 * 2 / (4 + 2).
    assert entry["metrics"]["f1_adversarial"]["value"] == pytest.approx(200 / 3)
    assert (entry["unparsed"], entry["unparsed_as"]) == (6, "yes")


def test_a_part_of_the_items(tmp_path):
    items = Pope().items(data_root(tmp_path, "pope"))[4:]
    scores = Pope().score(items, answers_to(items, ["yes", "yes"]))
    assert scores.metrics["f1_adversarial"].value is None
    assert scores.metrics["accuracy_random"].value == 0


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "pope")
    path = root / "pope/coco/coco_pope_popular.json"
    edited(path, '"label"', '"answer"')
    with pytest.raises(DataError, match=r"coco_pope_popular.json, record 0: no 'label'"):
        Pope().items(root)
    path.write_text(json.dumps([{"question": "a list"}]))
    with pytest.raises(DataError, match="expected an object"):
        Pope().items(root)
    path.write_text(json.dumps({"question_id": 1, "image": "7.jpg", "text": "Is there a kite?", "label": "maybe"}))
    with pytest.raises(DataError, match=r"record 0: field 'label' is 'maybe', expected yes or no"):
        Pope().items(root)


def test_splits_that_are_empty_or_the_same(tmp_path):
    folder = data_root(tmp_path, "pope") / "pope/coco"
    adversarial, random = folder / "coco_pope_adversarial.json", folder / "coco_pope_random.json"
    random.write_text(adversarial.read_text())
    with pytest.raises(
        DataError, match=r"coco_pope_adversarial\.json: holds the same 4 questions as .*coco_pope_random\.json"
    ):
        Pope().items(tmp_path)
    # The popular split's question is one of the adversarial split's, as the official splits share half of theirs.
    random.write_text("\n")
    with pytest.raises(DataError, match=r"coco_pope_random\.json: no question in it, and 1 in .*popular\.json"):
        Pope().items(tmp_path)
    random.unlink()
    with pytest.raises(DataError, match=r"coco_pope_random\.json: no such file"):
        Pope().items(tmp_path)
