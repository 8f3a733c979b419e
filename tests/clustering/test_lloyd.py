import numpy as np
import pytest
from sklearn.cluster import KMeans

from llava_mocle.clustering import lloyd
from llava_mocle.clustering.lloyd import Fit, Lloyd
from tests.clustering.test_kmeans import blobs, plain_lloyd, same_partition


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks with borders inside the small data of these tests."""
    monkeypatch.setattr(lloyd, "_BLOCK", 37)


def run(points: np.ndarray, centroids: np.ndarray, weights: np.ndarray | None = None, **settings) -> Fit:
    weights = np.ones(len(points)) if weights is None else weights
    return Lloyd(points, weights, settings.pop("workers", 2)).run(centroids, settings.pop("passes", 1000), **settings)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("number", "dim", "num_clusters"), [(400, 16, 8), (75, 3, 5), (37, 1, 2), (1, 4, 1), (50, 7, 1)]
)
def test_equals_a_plain_loop(number, dim, num_clusters, dtype):
    points = (blobs(number, dim) if dim > 1 else np.random.default_rng(0).standard_normal((number, 1))).astype(dtype)
    weights = np.random.default_rng(1).integers(1, 20, number).astype(float)
    found = run(points, points[:num_clusters], weights)
    labels, centres = plain_lloyd(points, weights, points[:num_clusters])
    assert found.settled
    assert (found.labels == labels).all()
    # Both add up in float64; only the order differs.
    np.testing.assert_allclose(found.centroids, centres, rtol=0, atol=1e-13)
    distances = ((points.astype(np.float64) - centres[labels]) ** 2).sum(axis=1)
    assert found.inertia == pytest.approx(float((weights * distances).sum()), rel=1e-12)


def test_as_many_clusters_as_points():
    points = blobs(40)
    found = run(points, points[::-1])
    assert (found.labels == np.arange(40)[::-1]).all()
    assert found.inertia == 0


def test_equals_scikit_learn_on_points_that_overlap():
    """Many points change their cluster in many passes: a margin that was kept wrongly would show."""
    points = np.random.default_rng(3).standard_normal((3000, 6)).astype(np.float32)
    weights = np.random.default_rng(4).integers(1, 6, len(points)).astype(float)
    start = points[:20].astype(np.float64)
    found = run(points, start, weights, passes=3000)
    reference = KMeans(20, init=start, n_init=1, tol=0, max_iter=3000, algorithm="lloyd").fit(
        points.astype(np.float64), sample_weight=weights
    )
    assert found.passes > 20
    assert same_partition(found.labels, reference.labels_)
    np.testing.assert_allclose(found.centroids, reference.cluster_centers_, rtol=0, atol=1e-12)
    assert found.inertia == pytest.approx(reference.inertia_, rel=1e-12)


def test_most_points_are_not_measured_again(monkeypatch):
    measured = []
    original = lloyd.two_nearest

    def watch(points, centroids):
        measured.append(len(points))
        return original(points, centroids)

    monkeypatch.setattr(lloyd, "two_nearest", watch)
    points = blobs(2000, centres=8)
    found = run(points, points[:8])
    assert found.settled
    assert found.passes > 5
    assert sum(measured) < 0.5 * found.passes * len(points)


def test_the_number_of_threads_changes_no_bit():
    points = np.random.default_rng(5).standard_normal((900, 5)).astype(np.float32)
    weights = np.random.default_rng(6).random(900) + 0.1
    one, three, seven = (run(points, points[:11], weights, workers=workers) for workers in (1, 3, 7))
    for other in (three, seven):
        assert (one.labels == other.labels).all()
        assert (one.centroids == other.centroids).all()
        assert one.inertia == other.inertia


def test_where_blocks_begin_changes_no_label(monkeypatch):
    points = np.random.default_rng(7).standard_normal((500, 4)).astype(np.float32)
    expected = run(points, points[:9])
    for size in (7, 64, 499, 500, 4096):
        monkeypatch.setattr(lloyd, "_BLOCK", size)
        found = run(points, points[:9])
        assert (found.labels == expected.labels).all()
        np.testing.assert_allclose(found.centroids, expected.centroids, rtol=0, atol=1e-14)


def test_a_memory_mapped_file_is_read_in_blocks(tmp_path):
    points = blobs(300)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    found, expected = run(mapped, points[:4]), run(points, points[:4])
    assert (found.labels == expected.labels).all()
    assert (found.centroids == expected.centroids).all()


def test_a_cluster_that_is_left_empty_takes_the_farthest_point():
    """Two of the four centroids are nearest to nothing."""
    points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0], [20.0]])
    found = run(points, np.array([[0.1], [5.0], [100.0], [200.0]]))
    assert found.settled
    # Worked by hand: 20 and then 9 lie farthest from the centroid 5.0 that they are assigned to.
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 3, 2]
    np.testing.assert_allclose(found.centroids[:, 0], [0.1, 5.05, 20.0, 9.0], atol=1e-14)


@pytest.mark.parametrize("passes", [1, 2, 1000])
def test_no_cluster_is_ever_empty(passes):
    points = blobs(200, centres=3, spread=0.01)
    far = np.full((30, points.shape[1]), 50.0)
    found = run(points, np.concatenate([points[:2], far]), passes=passes)
    assert (np.bincount(found.labels, minlength=32) > 0).all()
    assert np.isfinite(found.centroids).all()


def test_an_early_end_leaves_means_of_its_labels():
    points = np.random.default_rng(8).standard_normal((600, 4)).astype(np.float32)
    for limits in ({"passes": 3}, {"tolerance": 0.01}):
        found = run(points, points[:10], **limits)
        assert not found.settled
        for cluster in range(10):
            mean = points[found.labels == cluster].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(found.centroids[cluster], mean, rtol=0, atol=1e-14)
    assert run(points, points[:10], passes=3).passes == 3
    assert run(points, points[:10], tolerance=0.01).passes < run(points, points[:10]).passes


def test_every_pass_is_told():
    points, told = blobs(100), []
    found = run(points, points[:3], said=told.append)
    assert sum(told) == 100 * found.passes
