import numpy as np
import pytest
from sklearn.cluster import KMeans

from llava_mocle.clustering import kmeans, lloyd
from llava_mocle.errors import ConfigError


def blobs(number: int = 400, dim: int = 16, centres: int = 5, spread: float = 0.35, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    middle = generator.standard_normal((centres, dim))
    points = middle[generator.integers(centres, size=number)] + spread * generator.standard_normal((number, dim))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def plain_lloyd(points: np.ndarray, weights: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The paper's iteration, one point at a time."""
    points, centres = points.astype(np.float64), centres.astype(np.float64).copy()
    labels = None
    while True:
        new = np.array([int(np.argmin([((point - centre) ** 2).sum() for centre in centres])) for point in points])
        if labels is not None and (new == labels).all():
            return labels, centres
        labels = new
        for k in range(len(centres)):
            mine = labels == k
            centres[k] = (weights[mine, None] * points[mine]).sum(axis=0) / weights[mine].sum()


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("num_clusters", [1, 3, 8])
def test_equals_a_plain_loop_from_the_same_centres(num_clusters):
    points = blobs()
    weights = np.random.default_rng(1).integers(1, 20, len(points)).astype(float)
    start = points[:num_clusters]
    result = kmeans.fit(points, num_clusters, weights=weights, init=start)
    labels, centres = plain_lloyd(points, weights, start)
    assert same_partition(result.labels, labels)
    for k in range(num_clusters):
        np.testing.assert_allclose(result.centroids[k], centres[labels[result.labels == k][0]], rtol=0, atol=1e-12)


def test_equals_scikit_learn_on_repeated_rows_from_the_same_centres():
    points = blobs(200)
    weights = np.random.default_rng(2).integers(1, 6, len(points))
    start = points[[3, 50, 120, 180]].astype(np.float64)
    result = kmeans.fit(points, 4, weights=weights.astype(float), init=start)
    repeated = np.repeat(points, weights, axis=0).astype(np.float64)
    reference = KMeans(4, init=start, n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(repeated)
    assert same_partition(np.repeat(result.labels, weights), reference.labels_)
    assert result.inertia == pytest.approx(reference.inertia_, rel=1e-9)
    assert sorted(result.counts) == sorted(np.bincount(reference.labels_))


def test_centroids_are_the_weighted_means_and_labels_the_nearest():
    points = blobs(300, centres=9, spread=0.8)
    weights = np.linspace(1, 5, len(points))
    result = kmeans.fit(points, 6, seed=3, n_init=4, weights=weights)
    distances = ((points[:, None].astype(np.float64) - result.centroids) ** 2).sum(axis=-1)
    assert (distances.argmin(axis=1) == result.labels).all()
    assert result.inertia == pytest.approx(float((weights * distances.min(axis=1)).sum()), rel=1e-12)
    for k in range(6):
        mean = np.average(points[result.labels == k].astype(np.float64), axis=0, weights=weights[result.labels == k])
        np.testing.assert_allclose(result.centroids[k], mean, rtol=0, atol=1e-14)


def test_restarts_keep_the_best():
    points = blobs(300, dim=3, centres=25, spread=0.05)
    single = [kmeans.fit(points, 25, seed=seed, n_init=1).inertia for seed in range(6)]
    assert max(single) > min(single) * 1.01, "restarts must matter here, or this test shows nothing"
    assert kmeans.fit(points, 25, seed=0, n_init=30).inertia <= sorted(single)[1]


def test_numbering_and_repeatability():
    points = blobs(500, centres=7)
    first, second = (kmeans.fit(points, 7, seed=5) for _ in range(2))
    assert (np.diff(first.counts) <= 0).all()
    assert (first.centroids == second.centroids).all()
    assert (first.labels == second.labels).all()
    assert first.counts.sum() == len(points)


def test_input_is_left_alone():
    points = blobs(50).astype(np.float64)
    before = points.copy()
    kmeans.fit(points, 3)
    assert (points == before).all()


@pytest.mark.parametrize(
    ("num_clusters", "n_init", "words"),
    [(0, 1, "num_clusters is 0"), (6, 1, "num_clusters is 6.*only 5 distinct"), (2, 0, "cluster_n_init is 0")],
)
def test_bad_settings(num_clusters, n_init, words):
    with pytest.raises(ConfigError, match=words):
        kmeans.fit(blobs(5), num_clusters, n_init=n_init)


def test_texts_with_one_embedding_do_not_count_twice():
    points = np.concatenate([blobs(4), blobs(4)])
    with pytest.raises(ConfigError, match="only 4 of the 8"):
        kmeans.fit(points, 5)
    assert kmeans.fit(points, 4).inertia == pytest.approx(0, abs=1e-12)


def test_points_that_differ_are_counted_only_as_far_as_needed(monkeypatch):
    """Sorting a rounded copy of millions of embeddings took minutes and gigabytes."""
    monkeypatch.setattr(kmeans, "_CHUNK", 4)
    points = np.repeat(np.eye(3), 4, axis=0)
    points[1] += 1e-6  # the same up to rounding
    points[2] *= -1.0  # -0.0 is 0.0
    points[2, 0] = 1.0
    with pytest.raises(ConfigError, match="only 3 of the 12"):
        kmeans._check_different(points, 4)
    kmeans._check_different(points, 3)

    class Untouchable(np.ndarray):
        def __getitem__(self, key):
            assert key.start < 4, "looked further than the first chunk"
            return super().__getitem__(key)

    kmeans._check_different(np.arange(24.0).reshape(12, 2).view(Untouchable), 4)


@pytest.fixture
def few_are_many(monkeypatch):
    """Small data takes the way of large data: the restarts run on a sample, the passes in blocks."""
    monkeypatch.setattr(kmeans, "SMALL", 0)
    monkeypatch.setattr(kmeans, "_SAMPLE_AT_LEAST", 256)
    monkeypatch.setattr(kmeans, "_START_AT_LEAST", 64)
    monkeypatch.setattr(kmeans, "_SAMPLE", 16)
    monkeypatch.setattr(kmeans, "_START", 4)
    monkeypatch.setattr(lloyd, "_BLOCK", 100)


@pytest.mark.parametrize(("number", "num_clusters"), [(700, 7), (400, 1), (90, 4), (30, 30)])
def test_a_sampled_fit_is_as_good_as_one_on_all_points(few_are_many, monkeypatch, number, num_clusters):
    points = blobs(number, centres=7, spread=0.2)
    weights = np.random.default_rng(1).integers(1, 9, number).astype(float)
    found = kmeans.fit(points, num_clusters, n_init=8, weights=weights)
    monkeypatch.setattr(kmeans, "SMALL", number)
    all_points = kmeans.fit(points, num_clusters, n_init=8, weights=weights)
    # Both find the seven blobs; where there are fewer clusters than blobs, or none, ways of splitting them may differ.
    assert found.inertia <= all_points.inertia * 1.02 + 1e-12
    if num_clusters == 7:
        assert (found.labels == all_points.labels).all()
        np.testing.assert_allclose(found.centroids, all_points.centroids, rtol=0, atol=1e-13)
    assert (np.diff(found.counts) <= 0).all()
    assert found.counts.sum() == weights.sum()
    assert found.labels.dtype == np.int64


def test_a_sampled_fit_ends_where_no_assignment_changes(few_are_many):
    points = np.random.default_rng(2).standard_normal((2000, 5)).astype(np.float32)
    weights = np.linspace(1, 5, len(points))
    found = kmeans.fit(points, 9, n_init=2, weights=weights)
    distances = ((points[:, None].astype(np.float64) - found.centroids) ** 2).sum(axis=-1)
    assert (distances.argmin(axis=1) == found.labels).all()
    assert found.inertia == pytest.approx(float((weights * distances.min(axis=1)).sum()), rel=1e-12)
    for k in range(9):
        mine = found.labels == k
        mean = np.average(points[mine].astype(np.float64), axis=0, weights=weights[mine])
        np.testing.assert_allclose(found.centroids[k], mean, rtol=0, atol=1e-13)


def test_a_sampled_fit_repeats_to_the_bit(few_are_many, monkeypatch, tmp_path):
    points = blobs(900, centres=12, spread=0.6)
    np.save(tmp_path / "points.npy", points)
    first = kmeans.fit(points, 6, seed=4, n_init=3)
    mapped = kmeans.fit(np.load(tmp_path / "points.npy", mmap_mode="r"), 6, seed=4, n_init=3)
    monkeypatch.setattr(lloyd, "usual_workers", lambda: 5)
    threads = kmeans.fit(points, 6, seed=4, n_init=3)
    for other in (mapped, threads):
        assert (first.centroids == other.centroids).all()
        assert (first.labels == other.labels).all()
        assert first.inertia == other.inertia
    assert not np.array_equal(first.centroids, kmeans.fit(points, 6, seed=5, n_init=3).centroids)


def test_restarts_on_the_sample_keep_the_best(few_are_many):
    points = blobs(3000, dim=3, centres=25, spread=0.05)
    single = [kmeans.fit(points, 25, seed=seed, n_init=1).inertia for seed in range(6)]
    assert max(single) > min(single) * 1.01, "restarts must matter here, or this test shows nothing"
    assert kmeans.fit(points, 25, seed=0, n_init=20).inertia <= sorted(single)[1]


def test_from_given_centres_no_sample_is_needed(few_are_many):
    points = blobs()
    weights = np.random.default_rng(1).integers(1, 20, len(points)).astype(float)
    found = kmeans.fit(points, 8, weights=weights, init=points[:8])
    labels, _ = plain_lloyd(points, weights, points[:8])
    assert same_partition(found.labels, labels)


def test_bad_settings_of_a_large_fit(few_are_many):
    points = np.concatenate([blobs(4), blobs(4)])
    with pytest.raises(ConfigError, match="only 4 of the 8"):
        kmeans.fit(points, 5)
    assert kmeans.fit(points, 4).inertia == pytest.approx(0, abs=1e-12)


def test_the_sample_follows_the_weights():
    weights = np.array([1.0, 1.0, 500.0, 1.0, 0.25, 0.25, 20.0] * 50)
    share = 700 * weights / weights.sum()
    drawn = np.zeros(len(weights))
    for seed in range(200):
        rows, times = kmeans._sample(weights, 700, np.random.default_rng(seed))
        assert times.sum() == 700
        assert (np.diff(rows) > 0).all()
        # One draw from each share of the mass: what a row is drawn differs from its due by less than 2.
        assert (abs(times - share[rows]) < 2).all()
        drawn[rows] += times
    # 200 samples: the mean of a count whose variance is below 1 is off by less than 0.4 (5 standard errors).
    np.testing.assert_allclose(drawn / 200, share, atol=0.4)
    rows, times = kmeans._sample(np.ones(1000), 1000, np.random.default_rng(0))
    assert len(rows) > 600
