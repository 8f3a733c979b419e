import numpy as np

from llava_mocle.clustering.nearest import nearest_exact, nearest_with_margin


def test_against_a_loop():
    generator = np.random.default_rng(0)
    points, centroids = generator.standard_normal((70, 5)), generator.standard_normal((9, 5)).astype(np.float32)
    ids, distances, margins = nearest_with_margin(points, centroids)
    exact_ids, exact_distances = nearest_exact(points, centroids)
    for index, point in enumerate(points):
        table = np.array([np.sqrt(((point - centroid.astype(np.float64)) ** 2).sum()) for centroid in centroids])
        assert ids[index] == exact_ids[index] == table.argmin()
        np.testing.assert_allclose([distances[index], exact_distances[index]], table.min(), atol=1e-12)
        np.testing.assert_allclose(margins[index], np.sort(table)[1] - table.min(), atol=1e-12)


def test_ties_go_to_the_lowest_index():
    centroids = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    points = np.array([[0.0, 1.0], [0.5, 0.5], [0.5 - 1e-12, 0.5]])
    assert nearest_exact(points, centroids)[0].tolist() == [1, 1, 1]
    ids, _, margins = nearest_with_margin(points, centroids)
    assert ids[0] == 1
    assert (margins < 1e-9).all()


def test_one_cluster_has_no_rival():
    ids, distances, margins = nearest_with_margin(np.eye(3), np.zeros((1, 3)))
    assert ids.tolist() == [0, 0, 0]
    assert np.allclose(distances, 1)
    assert np.isinf(margins).all()
