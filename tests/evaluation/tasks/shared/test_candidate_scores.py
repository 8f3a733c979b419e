from pathlib import Path

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.task import Item
from llava_mocle.evaluation.tasks.shared.candidate_scores import candidate_scores

ITEM = Item(Question(7, "Which?", images=(Path("a.jpg"),), candidates=("cat", "dog"), source="file, record 3"), 0)


def test_one_number_a_candidate():
    assert candidate_scores(ITEM, {"metadata": {"scores": [-1, "-inf"]}}) == [-1.0, -float("inf")]


@pytest.mark.parametrize(
    ("metadata", "found"), [(None, "none"), ({}, "none"), ({"scores": [1.0]}, r"\[1.0\]"), ({"scores": "ab"}, "'ab'")]
)
def test_missing_scores_are_named(metadata, found):
    with pytest.raises(DataError, match=rf"file, record 3: the answer to question 7 should hold 2 .*found {found}"):
        candidate_scores(ITEM, {"metadata": metadata})
