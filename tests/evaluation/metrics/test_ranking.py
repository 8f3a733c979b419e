import math
import random

import pytest

from llava_mocle.evaluation.metrics.ranking import reciprocal_rank

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "gold", "rank"),
    [
        ([0.1, 0.9, 0.5], 1, 1),
        ([0.1, 0.9, 0.5], 2, 2),
        ([0.1, 0.9, 0.5], 0, 3),
        ([-3.0], 0, 1),
        # Ties: the worst case.
        ([1.0, 1.0, 1.0, 1.0], 0, 4),
        ([1.0, 1.0, 1.0, 1.0], 3, 4),
        ([2.0, 1.0, 1.0, 0.0], 1, 3),
        ([2.0, 1.0, 1.0, 0.0], 2, 3),
        ([-INF, -INF, -1.0], 0, 3),
        # nan never helps.
        ([1.0, NAN, 0.0], 0, 2),
        ([NAN, 1.0, 0.0], 0, 3),
    ],
)
def test_reciprocal_rank(scores, gold, rank):
    assert reciprocal_rank(scores, gold) == 1 / rank


@pytest.mark.parametrize("gold", [-1, 3])
def test_gold_must_be_a_candidate(gold):
    with pytest.raises(ValueError, match=r"expected 0\.\.2"):
        reciprocal_rank([1.0, 2.0, 3.0], gold)


def test_against_sorting():
    rng = random.Random(0)
    for _ in range(100):
        scores = [rng.random() for _ in range(100)]
        gold = rng.randrange(100)
        order = sorted(range(100), key=lambda index: -scores[index])
        assert reciprocal_rank(scores, gold) == 1 / (1 + order.index(gold))
