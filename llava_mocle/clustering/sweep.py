"""Several numbers of clusters on the same instructions: how tight, how far apart, how steady under other words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_mocle.clustering import kmeans
from llava_mocle.clustering.encoder import Encoder
from llava_mocle.clustering.nearest import nearest_with_margin

# Distances between all pairs of so many instructions are quickly computed.
SILHOUETTE_SAMPLE = 2000
# Below this, one question in ten or more is split between clusters by its wording alone.
STEADY = 0.9


@dataclass(frozen=True)
class SweepPoint:
    """What K clusters come to.

    Attributes:
        num_clusters: K.
        inertia: the sum over instructions of their squared distance to their centroid.
        explained: the share of the inertia of a single cluster that K of them take away.
        silhouette: scikit-learn's, the mean over a sample of the distinct instructions; nan for K = 1.
        stability: the share of a question's paraphrases that land in one cluster, its largest; the mean over questions.
            nan without questions.
        whole: the share of questions whose paraphrases all land in one cluster.
        smallest: the share of the instructions in the smallest cluster.
    """

    num_clusters: int
    inertia: float
    explained: float
    silhouette: float
    stability: float
    whole: float
    smallest: float


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep, in the order of K.

    Attributes:
        points: one for each K.
        distinct: the number of distinct instructions.
        sampled: of how many the silhouette is.
        questions, paraphrases: how many questions were paraphrased, into how many texts.
    """

    points: tuple[SweepPoint, ...]
    distinct: int
    sampled: int
    questions: int
    paraphrases: int


def sweep(
    weight_of: Mapping[str, float],
    paraphrased: Sequence[Sequence[str]],
    numbers: Sequence[int],
    encoder: Encoder,
    *,
    seed: int = 0,
    n_init: int = 10,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    sample: int = SILHOUETTE_SAMPLE,
) -> Sweep:
    """Fit k-means with each K of `numbers`. Every text is encoded once.

    Args:
        weight_of: distinct instruction -> how often it is met, as `weigh` gives it.
        paraphrased: for each question, its paraphrases.
        numbers: the Ks.
        sample: the most instructions that the silhouette looks at.

    Raises:
        ConfigError: a K is below 1, or larger than the number of distinct instructions.
    """
    numbers = sorted(set(numbers))
    texts, mass = list(weight_of), np.array(list(weight_of.values()), dtype=np.float64)
    for number in (numbers[0], numbers[-1]):
        kmeans.check_enough(number, len(texts))
    embeddings, _ = encoder.encode_rough(texts, cache_dir=cache_dir, progress=progress)
    others = [text for group in paraphrased for text in group]
    other = encoder.encode(others, cache_dir=cache_dir, progress=progress) if others else embeddings[:0]
    owner = np.repeat(np.arange(len(paraphrased)), [len(group) for group in paraphrased])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:sample])
    single = _single_inertia(embeddings, mass)
    points = []
    for number in numbers:
        found = kmeans.fit(embeddings, number, seed=seed, n_init=n_init, weights=mass, progress=progress)
        stability, whole = paraphrase_stability(nearest_with_margin(other, found.centroids)[0], owner)
        points.append(
            SweepPoint(
                num_clusters=number,
                inertia=found.inertia,
                explained=1 - found.inertia / single if single else 0.0,
                silhouette=silhouette(np.asarray(embeddings[chosen]), found.labels[chosen]),
                stability=stability,
                whole=whole,
                smallest=float(found.counts.min() / found.counts.sum()),
            )
        )
    return Sweep(tuple(points), len(texts), len(chosen), len(paraphrased), len(others))


def _single_inertia(embeddings: np.ndarray, mass: np.ndarray) -> float:
    """The inertia of one cluster: the sum of the weighted squares less that of the mean."""
    total, square = np.zeros(embeddings.shape[1]), 0.0
    for start in range(0, len(embeddings), kmeans.SMALL):
        part = np.asarray(embeddings[start : start + kmeans.SMALL], dtype=np.float64)
        own = mass[start : start + kmeans.SMALL]
        total += own @ part
        square += float(own @ (part**2).sum(axis=1))
    return square - float(total @ total) / float(mass.sum())


def silhouette(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's silhouette score; nan where the points have one label, or each its own."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(labels)) <= len(labels) - 1:
        return math.nan
    return float(silhouette_score(embeddings, labels))


def paraphrase_stability(clusters: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    """(mean over questions of the share of its paraphrases in its largest cluster, share of questions in one cluster).

    Args:
        clusters: (N,) the cluster of each paraphrase.
        owner: (N,) its question, 0 to Q - 1.

    Example:
        Two questions, one whose four paraphrases land in clusters 1, 1, 1, 2, and one whose two land in 0, 0:
        `paraphrase_stability([1, 1, 1, 2, 0, 0], [0, 0, 0, 0, 1, 1]) == (0.875, 0.5)`.
    """
    clusters, owner = np.asarray(clusters), np.asarray(owner)
    if not len(owner):
        return math.nan, math.nan
    counts = np.zeros((owner.max() + 1, clusters.max() + 1), dtype=np.int64)
    np.add.at(counts, (owner, clusters), 1)
    shares = counts.max(axis=1) / counts.sum(axis=1)
    return float(shares.mean()), float((shares == 1).mean())


def advise(found: Sweep) -> str:
    """Which K to try first, and why: a sentence. Only a comparison of trained models decides."""
    points = [point for point in found.points if not math.isnan(point.silhouette)]
    if not points:
        return "One cluster has nothing to be compared with: give larger K."
    if not found.questions:
        best = max(points, key=lambda point: point.silhouette)
        return (
            f"Try K = {best.num_clusters} first: it has the best silhouette ({best.silhouette:.2f}). No instruction is "
            "a question or in a template of Table 10, so nothing is known of paraphrases."
        )
    steady = [point for point in points if point.stability >= STEADY]
    if not steady:
        best = max(points, key=lambda point: (point.stability, -point.num_clusters))
        return (
            f"Try K = {best.num_clusters} first, or less: under every K more than one paraphrase in ten leaves its "
            f"question's cluster, and under this one the fewest do ({100 * (1 - best.stability):.0f} %). Such a "
            "question reaches another expert when it is worded otherwise."
        )
    best = max(steady, key=lambda point: point.silhouette)
    lost = [point for point in points if point.num_clusters > best.num_clusters and point.stability < STEADY]
    more = (
        f" Above it, paraphrases of one question part: {100 * lost[0].stability:.0f} % stay together at "
        f"K = {lost[0].num_clusters}."
        if lost
        else ""
    )
    return (
        f"Try K = {best.num_clusters} first: of the K that keep at least {100 * STEADY:.0f} % of a question's "
        f"paraphrases in one cluster, it has the best silhouette ({best.silhouette:.2f}).{more}"
    )
