import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.mme import COGNITION, PERCEPTION, mme_scores

# subtask, image, right?
TABLE = [
    ("existence", "1.jpg", True),
    ("existence", "1.jpg", True),
    ("existence", "2.jpg", True),
    ("existence", "2.jpg", False),
    ("existence", "3.jpg", False),
    ("existence", "3.jpg", False),
    ("existence", "4.jpg", True),
    ("existence", "4.jpg", True),
    # the name of an image of another subtask: another image
    ("OCR", "1.jpg", False),
    ("OCR", "1.jpg", True),
    ("code_reasoning", "9.png", True),
    ("code_reasoning", "9.png", True),
]


def test_by_hand():
    scores = mme_scores(TABLE)
    existence = scores.subtasks["existence"]
    # 5 of 8 questions, 2 of 4 images
    assert (existence.acc, existence.acc_plus, existence.score, existence.images) == (62.5, 50.0, 112.5, 4)
    ocr = scores.subtasks["OCR"]
    assert (ocr.acc, ocr.acc_plus, ocr.score, ocr.images) == (50.0, 0.0, 50.0, 1)
    assert scores.subtasks["code_reasoning"].score == 200.0
    assert (scores.perception, scores.cognition, scores.total) == (162.5, 200.0, 362.5)
    assert list(scores.subtasks) == ["existence", "OCR", "code_reasoning"]


def test_order_does_not_matter():
    assert mme_scores(sorted(TABLE, key=lambda row: row[1])) == mme_scores(TABLE)


def test_an_image_drawn_twice_counts_as_two():
    """As a bootstrap over images draws it: image 1 twice, image 2 once. 5 of 6 questions, 2 of 3 images."""
    existence = mme_scores([*TABLE[:2], *TABLE[2:4], *TABLE[:2]]).subtasks["existence"]
    assert existence.images == 3
    assert existence.acc == pytest.approx(500 / 6)
    assert existence.acc_plus == pytest.approx(200 / 3)


def test_the_most_there_is():
    scores = mme_scores([(name, 0, True) for name in PERCEPTION + COGNITION for _ in range(2)])
    assert (scores.perception, scores.cognition, scores.total) == (2000.0, 800.0, 2800.0)
    assert mme_scores([]).total == 0


def test_half_an_image():
    with pytest.raises(DataError, match=r"existence, image 2\.jpg: found 1 question"):
        mme_scores(TABLE[:3])


def test_unknown_subtask():
    with pytest.raises(DataError, match="'ocr'; expected one of existence"):
        mme_scores([("ocr", "1.jpg", True)] * 2)
