"""Several K on one set of instructions, against scikit-learn and against counts by hand."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from llava_mocle.clustering.sweep import Sweep, SweepPoint, advise, paraphrase_stability, silhouette, sweep
from llava_mocle.errors import ConfigError


class Encoder:
    """Texts "G V": a point near the corner G of a simplex, moved by V."""

    name, weight_hash, dim = "corners", "corners", 6

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts, cache_dir=None, progress=True, exact=False):
        self.asked += texts
        points = []
        for text in texts:
            corner, place = map(int, text.split())
            points.append(np.eye(6)[corner] + 0.1 * np.random.default_rng(place).normal(size=6))
        return np.array(points, dtype=np.float32)

    def encode_rough(self, texts, cache_dir=None, progress=True):
        return self.encode(texts, cache_dir, progress), 1e-5


TEXTS = {f"{corner} {place}": 1.0 + (place == 0) for corner in range(4) for place in range(8)}
# Two questions whose paraphrases lie at one corner, and one whose paraphrases lie at two.
PARAPHRASES = [["0 50", "0 51"], ["1 52", "1 53"], ["2 54", "2 55", "2 56", "3 57"]]


def run(numbers, encoder=None, **options):
    return sweep(TEXTS, PARAPHRASES, numbers, encoder or Encoder(), progress=False, **options)


def test_numbers_are_those_of_scikit_learn():
    """Four groups far apart: every start finds them, so the optimum is scikit-learn's too (to float32 rounding)."""
    found = run([4, 1, 2])
    assert [point.num_clusters for point in found.points] == [1, 2, 4]
    points, mass = Encoder().encode(list(TEXTS)).astype(np.float64), np.array(list(TEXTS.values()))
    for point, number in zip(found.points, (1, 2, 4), strict=True):
        theirs = KMeans(number, n_init=10, random_state=0, tol=0).fit(points, sample_weight=mass)
        assert point.inertia == pytest.approx(theirs.inertia_, rel=1e-6)
        assert point.explained == pytest.approx(1 - theirs.inertia_ / found.points[0].inertia, abs=1e-6)
    assert found.points[-1].silhouette == pytest.approx(silhouette_score(points, theirs.labels_), abs=1e-6)
    assert math.isnan(found.points[0].silhouette)
    assert found.points[0].explained == pytest.approx(0.0, abs=1e-9)
    assert found.points[-1].smallest == pytest.approx(0.25)


def test_every_text_is_encoded_once():
    encoder = Encoder()
    run([1, 2, 4], encoder)
    assert len(encoder.asked) == len(set(encoder.asked)) == len(TEXTS) + 8


def test_the_silhouette_is_of_a_sample():
    found = run([4], sample=10, seed=3)
    chosen = np.sort(np.random.default_rng(3).permutation(len(TEXTS))[:10])
    texts = [list(TEXTS)[place] for place in chosen]
    expected = silhouette_score(Encoder().encode(texts), [int(text[0]) for text in texts])
    assert found.sampled == 10
    assert found.points[0].silhouette == pytest.approx(expected, abs=1e-6)
    assert math.isnan(silhouette(np.eye(3), np.array([0, 1, 2])))


def test_stability_by_hand():
    assert paraphrase_stability(np.array([1, 1, 1, 2, 0, 0]), np.array([0, 0, 0, 0, 1, 1])) == (0.875, 0.5)
    assert all(map(math.isnan, paraphrase_stability(np.empty(0, int), np.empty(0, int))))
    found = run([1, 4])
    assert (found.questions, found.paraphrases) == (3, 8)
    one, four = found.points
    assert (one.stability, one.whole) == (1.0, 1.0)
    # 1, 1 and 3 of 4.
    assert four.stability == pytest.approx((1 + 1 + 0.75) / 3)
    assert four.whole == pytest.approx(2 / 3)


def test_more_clusters_than_instructions_are_refused():
    with pytest.raises(ConfigError, match="num_clusters is 40, but there are only 32 distinct"):
        run([4, 40])


def point(number, silhouette, stability):
    return SweepPoint(number, 1.0, 0.5, silhouette, stability, stability, 0.1)


@pytest.mark.parametrize(
    ("points", "questions", "said"),
    [
        ([point(4, 0.2, 1.0), point(16, 0.3, 0.95), point(64, 0.5, 0.6)], 9, "Try K = 16 first: of the K that keep"),
        ([point(4, 0.2, 0.8), point(16, 0.3, 0.7)], 9, "Try K = 4 first, or less: under every K"),
        ([point(4, 0.2, math.nan), point(16, 0.3, math.nan)], 0, "Try K = 16 first: it has the best silhouette"),
        ([point(1, math.nan, 1.0)], 9, "One cluster has nothing to be compared with"),
    ],
)
def test_advice(points, questions, said):
    advice = advise(Sweep(tuple(points), 100, 100, questions, 10 * questions))
    assert advice.startswith(said)
    if said.startswith("Try K = 16 first: of"):
        assert "60 % stay together at K = 64" in advice
