from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llava_mocle.inference.explanation import explain_routing, summarize_routing

# Two clusters, two sites, three experts.
GATES = torch.tensor(
    [
        [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]],
        [[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]],
    ]
)


def test_averages_worked_out_by_hand():
    summary = summarize_routing(GATES)
    np.testing.assert_allclose(summary.mean_gates, [[0.6, 0.3, 0.1], [0.15, 0.5, 0.35]], atol=1e-7)
    np.testing.assert_allclose(summary.expert_share, [[1, 0, 0], [0, 0.5, 0.5]])
    np.testing.assert_allclose(summary.applied_weight, [[0.6, 0, 0], [0, 0.4, 0.3]], atol=1e-7)
    np.testing.assert_allclose(summary.universal_weight, [0.4, 0.3], atol=1e-7)
    assert summary.num_sites == 2


def test_two_experts_without_universal():
    summary = summarize_routing(GATES.numpy(), top_k=2, universal=False)
    assert summary.universal_weight is None
    np.testing.assert_allclose(summary.applied_weight[0], [0.6, 0.3, 0], atol=1e-7)


def test_released_mode_applies_the_gate_twice():
    summary = summarize_routing(GATES, gate_mode="released")
    assert summary.applied_weight[0, 0] == pytest.approx((0.49 + 0.25) / 2)
    np.testing.assert_allclose(summary.universal_weight, [0.4, 0.3], atol=1e-7)


class OneCluster:
    """A cluster model that knows the instructions nearest to cluster 1."""

    def nearest_examples(self, cluster, count):
        assert cluster == 1
        return [SimpleNamespace(text=f"instruction {number}") for number in range(count)]


def explained(**adapter):
    model = SimpleNamespace(base_model=SimpleNamespace(clean_gates=lambda: GATES))
    settings = SimpleNamespace(**{"top_k": 1, "universal_expert": True, "gate_mode": "paper", **adapter})
    return explain_routing(model, settings, OneCluster(), route_text="Why?", cluster=1, distance=0.25)


def test_an_explanation_shows_the_row_of_its_cluster():
    found = explained()
    assert (found.route_text, found.cluster_id, found.cluster_distance, found.num_sites) == ("Why?", 1, 0.25, 2)
    assert found.nearest_instructions == tuple(f"instruction {number}" for number in range(5))
    assert found.mean_gates == pytest.approx((0.15, 0.5, 0.35))
    assert found.expert_share == pytest.approx((0, 0.5, 0.5))
    assert found.universal_weight == pytest.approx(0.3)
    assert explained(universal_expert=False).universal_weight is None


def test_a_cluster_that_no_gate_looks_at_has_no_gates():
    found = explain_routing(object(), None, OneCluster(), route_text="Why?", cluster=1, distance=None)
    assert (found.mean_gates, found.expert_share, found.universal_weight, found.num_sites) == ((), (), None, 0)
    assert len(found.nearest_instructions) == 5
