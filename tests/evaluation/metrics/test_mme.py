import numpy as np
import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.mme import COGNITION, PERCEPTION, mme_interval, mme_score

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
    by_subtask = {name: mme_score(row for row in TABLE if row[0] == name) for name, _, _ in TABLE}
    # existence: 5 of 8 questions, 2 of 4 images; OCR: 1 of 2 questions, 0 of 1 image
    assert by_subtask == {"existence": 62.5 + 50.0, "OCR": 50.0 + 0.0, "code_reasoning": 100.0 + 100.0}
    assert mme_score(TABLE) == 362.5


def test_order_does_not_matter():
    assert mme_score(sorted(TABLE, key=lambda row: row[1])) == mme_score(TABLE)


def test_an_image_that_stands_twice_counts_as_two():
    """Image 1 twice, image 2 once: 5 of 6 questions, 2 of 3 images."""
    assert mme_score([*TABLE[:2], *TABLE[2:4], *TABLE[:2]]) == pytest.approx(500 / 6 + 200 / 3)


def test_the_most_there_is():
    for names, most in ((PERCEPTION, 2000.0), (COGNITION, 800.0), (PERCEPTION + COGNITION, 2800.0)):
        assert mme_score([(name, 0, True) for name in names for _ in range(2)]) == most
    assert mme_score([]) == 0


def test_the_interval_keeps_every_subtask():
    # One image a subtask leaves nothing to draw: 50 (one question of two) + 200.
    single = [("OCR", 1, True), ("OCR", 1, False), ("count", 2, True), ("count", 2, True)]
    assert mme_interval(single) == (250.0, 250.0) == (mme_score(single),) * 2
    # A second image of "count", all wrong: its mean of two draws is 0, 100 or 200 with odds 1 : 2 : 1, and OCR's is 50.
    assert mme_interval([*single, ("count", 3, False), ("count", 3, False)]) == (50.0, 250.0)


@pytest.mark.parametrize("images", [1, 3, 20])
def test_all_right_leaves_no_doubt(images):
    records = [(name, image, True) for name in PERCEPTION + COGNITION for image in range(images) for _ in range(2)]
    assert mme_interval(records) == (2800.0, 2800.0)


def test_no_records_have_no_interval():
    assert np.isnan(mme_interval([])).all()


def test_half_an_image():
    with pytest.raises(DataError, match=r"existence, image 2\.jpg: found 1 question"):
        mme_score(TABLE[:3])


def test_unknown_subtask():
    with pytest.raises(DataError, match="'ocr'; expected one of existence"):
        mme_score([("ocr", "1.jpg", True)] * 2)
