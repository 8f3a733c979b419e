import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.video_qa import IVQA_FILE, Ivqa
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

FRAMES = ["ivqa/frames/clip1/000.jpg", "ivqa/frames/clip1/001.jpg", "ivqa/frames/clip2/000.jpg"]


def test_half_credit_for_one_annotator(tmp_path):
    root = data_root(tmp_path, "ivqa")
    items = ready_items(Ivqa(), root, FRAMES)
    assert [item.question.question_id for item in items] == ["clip1-0", "clip1-1", "clip2-2"]
    assert items[1].question.prompt == ("What is poured, at last?\nAnswer the question using a single word or phrase.")
    assert Ivqa().items(root, "instructblip")[2].question.prompt == "Question: How many eggs? Short answer:"
    # "knife, fork" is one answer; the last record has four annotators only.
    assert [len(item.reference) for item in items] == [5, 5, 4]
    scores = Ivqa().score(items, answers_to(items, ["The knife", "Crème", "2 eggs"]))
    assert scores.metrics["accuracy"].items == (1, 0.5, 0)
    assert scores.metrics["accuracy"].value == 50
    more = Ivqa().score(items, answers_to(items, ["knife fork", "milk.", ""]))
    # Two said milk: full credit. "knife, fork" is "knife fork" once normalised.
    assert more.metrics["accuracy"].items == (0.5, 1, 0)
    assert more.unparsed == 1


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "ivqa")
    with pytest.raises(DataError, match="neither frames of the video 'clip1'"):
        Ivqa().items(root)
    edited(root / IVQA_FILE, "two,3,4,5,", "two,3")
    with pytest.raises(DataError, match=r"test\.csv, line 4: found 4 columns, expected the header's 7"):
        Ivqa().items(root)
    edited(root / IVQA_FILE, "two,3", "two,3,4,5,")
    edited(root / IVQA_FILE, "answer5", "answer")
    with pytest.raises(DataError, match=r"test.csv, record 0: no 'answer5'"):
        Ivqa().items(root)
