"""Truncated pairs are the best of their rank."""

import numpy as np
import pytest
import torch

from llava_mocle.export.truncate import truncate


@pytest.mark.parametrize(("out", "within", "own", "rank"), [(12, 9, 6, 2), (9, 20, 6, 5), (4, 30, 8, 3)])
def test_against_numpy(out: int, within: int, own: int, rank: int) -> None:
    """numpy's SVD of the whole product in float64. The factors are float32: 1e-6 of the largest value is rounding."""
    torch.manual_seed(0)
    pair_A, pair_B = torch.randn(own, within), torch.randn(out, own)
    found = truncate(pair_A, pair_B, rank)
    product = pair_B.double().numpy() @ pair_A.double().numpy()
    U, values, Vh = np.linalg.svd(product, full_matrices=False)
    best = (U[:, :rank] * values[:rank]) @ Vh[:rank]
    assert found.A.shape == (rank, within)
    assert found.B.shape == (out, rank)
    np.testing.assert_allclose(found.B.double().numpy() @ found.A.double().numpy(), best, rtol=0, atol=1e-6 * values[0])
    assert found.lost == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-9)
    assert found.whole == pytest.approx(np.linalg.norm(product), rel=1e-9)


def test_a_smaller_pair_is_kept() -> None:
    pair_A, pair_B = torch.randn(3, 5), torch.randn(4, 3)
    found = truncate(pair_A, pair_B, 3)
    assert found.A is pair_A
    assert found.B is pair_B
    assert found.lost == 0


def test_zeros() -> None:
    found = truncate(torch.zeros(4, 5), torch.zeros(6, 4), 2)
    assert (found.lost, found.whole) == (0, 0)
    assert not found.A.any()
