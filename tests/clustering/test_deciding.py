import numpy as np

from llava_mocle.clustering.cluster_model import PROBE_TEXTS
from llava_mocle.clustering.encoder import FP32_ERROR
from llava_mocle.clustering.nearest import nearest_with_margin
from tests.clustering.encoders import FakeEncoder, question_texts
from tests.clustering.test_cluster_model import bordering_centroids, model_on


def test_ids_do_not_depend_on_the_rough_paths_error():
    """A bf16-like error turns many ids of a plain argmin, and none of what `assign` gives."""
    texts = question_texts(3000)
    centroids = 0.5 * np.random.default_rng(1).standard_normal((50, 8))
    expected, exact_distances = model_on(FakeEncoder(), centroids).assign(texts)
    rough = FakeEncoder(noise=0.8 * FP32_ERROR, roughness=0.02)
    model = model_on(rough, centroids)
    ids, distances = model.assign(texts)
    assert (ids == expected).all()
    assert sorted(rough.rough_calls) == sorted(texts)
    # Only texts near a border are embedded again, in float32; of these a few in float64.
    finer = [text for text in rough.calls if text not in PROBE_TEXTS]
    assert 0 < len(finer) < 0.5 * len(texts)
    plain = nearest_with_margin(rough.encode_rough(texts)[0], model.centroids)[0]
    assert (plain != expected).sum() > 10
    np.testing.assert_allclose(distances, exact_distances, rtol=0, atol=0.021)


def test_near_ties_of_the_rough_path_end_in_float64():
    """Texts midway between two centroids pass through bf16 and float32, and float64 decides."""
    texts = question_texts(60)
    centroids = bordering_centroids(FakeEncoder(), texts, offset=0.1)
    expected = model_on(FakeEncoder(), centroids).assign(texts)[0]
    rough = FakeEncoder(noise=0.8 * FP32_ERROR, roughness=0.02)
    model = model_on(rough, centroids)
    rough.exact_calls.clear()
    assert (model.assign(texts)[0] == expected).all()
    assert sorted(rough.exact_calls) == sorted(texts)
