import numpy as np
import pytest
import torch

from llava_mocle.inference.explanation import summarize_routing

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
