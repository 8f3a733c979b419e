import math

import numpy as np
import pyarrow as pa
import pytest

from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.training_distances import FIELD, LEVELS, of_assignments, quantile, quantiles
from llava_mocle.errors import ClusterModelError
from tests.clustering.encoders import FakeEncoder, question_texts


def written_out(distances, weights) -> dict[str, float]:
    """Every instruction as often as it counts, in the order of the distances."""
    each = sorted(
        distance for distance, weight in zip(distances, weights, strict=True) for _ in range(round(4 * weight))
    )
    return {str(level): round(float(each[math.ceil(level * len(each)) - 1]), 6) for level in LEVELS}


@pytest.mark.parametrize("seed", range(4))
def test_each_instruction_counts_as_often_as_it_is_met(seed):
    random = np.random.default_rng(seed)
    distances, weights = random.random(50 + seed), random.integers(1, 20, 50 + seed) / 4
    assert quantiles(distances, weights) == written_out(distances, weights)


def test_one_instruction():
    assert quantiles(np.array([0.25]), np.array([3.0])) == dict.fromkeys(map(str, LEVELS), 0.25)


def test_the_rows_of_a_table_count_as_their_dataset():
    table = pa.table(
        {
            "dataset": pa.array(["a", "b", "a", "gone"]).dictionary_encode(),
            "distance": pa.array([0.1, 0.2, 0.4, 9.0], pa.float32()),
        }
    )
    assert of_assignments(table, {"a": 1.0, "b": 9.0}) == {"0.5": 0.2, "0.9": 0.2, "0.95": 0.4, "0.99": 0.4}


def test_a_fit_records_them(tmp_path):
    texts = question_texts(40)
    weights = [1.0 + number % 3 for number in range(40)]
    model = ClusterModel.fit(texts, 4, weights=weights, encoder=FakeEncoder(), progress=False)
    _, distances = model.assign(texts)
    expected = written_out(distances, weights)
    for level in LEVELS:
        # `assign` gives float32.
        assert model.distance_quantile(level) == pytest.approx(expected[str(level)], abs=1e-6)
    model.save(tmp_path / "model")
    assert ClusterModel.load(tmp_path / "model").distance_quantile(0.95) == model.distance_quantile(0.95)


def test_what_to_do_without_them():
    with pytest.raises(ClusterModelError, match=r"k4/config\.json: records no distance_quantiles.*command again"):
        quantile({"request": "x"}, 0.95, "k4/config.json")
    with pytest.raises(ClusterModelError, match="records no"):
        quantile({FIELD: {"0.95": 0.0}}, 0.95, "k4/config.json")
    with pytest.raises(ClusterModelError, match="fitted by another program"):
        quantile({}, 0.95, "k4/config.json")
