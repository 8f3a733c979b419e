"""Smaller ranks: the best low-rank approximation of each site's update, by its singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Truncated:
    """A pair of a lower rank.

    Attributes:
        A: (rank, in).
        B: (out, rank).
        lost: Frobenius norm of B'A' - BA, of the whole pair and this one.
        whole: Frobenius norm of B'A'.
    """

    A: Tensor
    B: Tensor
    lost: float
    whole: float


@torch.no_grad()
def truncate(pair_A: Tensor, pair_B: Tensor, rank: int) -> Truncated:
    """The pair of this rank whose product is nearest to B'A' in the Frobenius norm (Eckart and Young, 1936).

    The product (out, in) itself is never formed: with B' = Q R and A'^T = P S, the singular values are those of the
    small R S^T. Computed in float64. A pair whose rank is not larger is kept as it is.

    Args:
        pair_A: (r, in).
        pair_B: (out, r).
        rank: at least 1.
    """
    left, right = torch.linalg.qr(pair_B.double()), torch.linalg.qr(pair_A.double().T)
    U, values, Vh = torch.linalg.svd(left.R @ right.R.T)
    whole = float(values.norm())
    if rank >= len(pair_A):
        return Truncated(pair_A, pair_B, 0.0, whole)
    root = values[:rank].sqrt()
    new_A = root[:, None] * (Vh[:rank] @ right.Q.T)
    new_B = (left.Q @ U[:, :rank]) * root
    return Truncated(new_A.to(pair_A.dtype), new_B.to(pair_B.dtype), float(values[rank:].norm()), whole)
