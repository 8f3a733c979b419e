import numpy as np
import pytest

from llava_mocle.clustering import nearest
from llava_mocle.clustering.nearest import (
    border_distances,
    nearest_exact,
    nearest_with_margin,
    second_nearest,
    two_nearest,
)


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


@pytest.mark.parametrize(("number", "dim", "num_clusters"), [(5000, 384, 64), (300, 3, 1), (1, 8, 2), (777, 17, 90)])
def test_float32_gives_the_ids_of_float64(monkeypatch, number, dim, num_clusters):
    monkeypatch.setattr(nearest, "_TABLE", 100 * num_clusters)
    generator = np.random.default_rng(0)
    points = generator.standard_normal((number, dim)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    centroids = (0.3 * generator.standard_normal((num_clusters, dim)) / dim**0.5).astype(np.float32)
    found = nearest_with_margin(points, centroids)
    expected = nearest_with_margin(points.astype(np.float64), centroids)
    assert (found[0] == expected[0]).all()
    # A square is off by about 2e-7 in float32, so a distance by about 1e-7 / distance.
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=1e-6)
    near = expected[2] < 1e-4
    np.testing.assert_allclose(found[2][near], expected[2][near], rtol=0, atol=1e-14)


def test_float32_points_on_a_border_are_measured_in_float64():
    """Each point lies between two centroids, nearer to one by less than float32 can tell."""
    generator = np.random.default_rng(1)
    points = generator.standard_normal((200, 48)).astype(np.float32)
    aside = 0.1 * generator.standard_normal(points.shape)
    pairs = np.stack([points + aside, points - aside * (1 + 1e-8 * generator.choice([-1, 1], (200, 1)))], axis=1)
    centroids = pairs.reshape(-1, 48)
    ids, _, margins = nearest_with_margin(points, centroids)
    plain = [
        int(np.argmin([((point.astype(np.float64) - centroid) ** 2).sum() for centroid in centroids]))
        for point in points
    ]
    assert ids.tolist() == plain
    assert (margins < 1e-6).all()
    narrow = ((points[:, None] - centroids.astype(np.float32)) ** 2).sum(axis=-1)
    assert (narrow.argmin(axis=1) != plain).any(), "float32 must go wrong here, or this test shows nothing"


def test_points_on_a_centroid_have_distance_zero():
    centroids = np.random.default_rng(2).standard_normal((5, 32)).astype(np.float32)
    ids, distances, _ = nearest_with_margin(centroids[::-1].copy(), centroids)
    assert ids.tolist() == [4, 3, 2, 1, 0]
    # The expanded square of float64 is off by about 1e-15.
    assert (distances < 1e-6).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_stated_error_holds(dtype):
    generator = np.random.default_rng(3)
    points = (10 * generator.standard_normal((400, 200))).astype(dtype)
    centroids = (points[:30] + 0.5).astype(np.float32)
    _, first, second, error = two_nearest(points, centroids)
    squares = np.sort(((points[:, None].astype(np.longdouble) - centroids) ** 2).sum(axis=-1), axis=1)
    assert 0 < error < 1e-4 * (points.astype(np.float64) ** 2).sum(axis=1).max()
    assert (abs(first**2 - squares[:, 0]) <= error).all()
    assert (abs(second**2 - squares[:, 1]) <= error).all()


@pytest.mark.parametrize("num_clusters", [1, 2, 7])
def test_how_far_a_point_is_from_the_border_of_its_cluster(num_clusters):
    generator = np.random.default_rng(4)
    points, centroids = generator.standard_normal((300, 3)), generator.standard_normal((num_clusters, 3))
    ids, _, margins = nearest_with_margin(points, centroids)
    found = border_distances(points, ids, centroids)
    assert (found >= margins / 2 - 1e-12).all()
    for index, point in enumerate(points):
        planes = []
        for rival in range(num_clusters):
            if rival != ids[index]:
                middle, normal = (
                    (centroids[rival] + centroids[ids[index]]) / 2,
                    centroids[rival] - centroids[ids[index]],
                )
                planes.append(abs((point - middle) @ normal) / np.linalg.norm(normal))
        assert found[index] == pytest.approx(min(planes, default=np.inf), abs=1e-12)


def test_a_point_just_short_of_the_border_keeps_its_cluster_and_one_beyond_does_not():
    generator = np.random.default_rng(5)
    points, centroids = generator.standard_normal((200, 4)), generator.standard_normal((6, 4))
    ids, _, _ = nearest_with_margin(points, centroids)
    height = border_distances(points, ids, centroids)
    turned = np.zeros(len(points), dtype=bool)
    for rival in range(6):
        direction = centroids[rival] - centroids[ids]
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
        short, beyond = (points + (height * share)[:, None] * direction for share in (0.999999, 1.000001))
        assert (nearest_with_margin(short, centroids)[0] == ids).all()
        turned |= nearest_with_margin(beyond, centroids)[0] != ids
    assert turned.all()


def test_between_two_equal_centroids_there_is_no_safe_distance():
    centroids = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    assert border_distances(np.array([[1.0, 0.2]]), np.array([0]), centroids) <= 0


def test_the_second_nearest():
    random = np.random.default_rng(3)
    points, centroids = random.standard_normal((30, 6)).astype(np.float32), random.standard_normal((5, 6))
    for point in points:
        lengths = [float(np.sqrt(((centroid - point.astype(np.float64)) ** 2).sum())) for centroid in centroids]
        first, second = sorted(range(5), key=lengths.__getitem__)[:2]
        others, distances = second_nearest(point[None], centroids, np.array([first]))
        assert others.tolist() == [second]
        np.testing.assert_allclose(distances, [lengths[second]], rtol=1e-14)
