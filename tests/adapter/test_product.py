import pytest
import torch

from llava_mocle.adapter.product import collapsed_pair, grouped
from llava_mocle.adapter.routing import Gates, Routing
from tests.adapter.reference_product import reference

SHAPES = {"2-D": (), "3-D": (3,), "one token": (1,), "4-D": (2, 3)}


def routed(expert, gate, num_experts, universal, mode="paper"):
    return Routing(Gates(expert, gate, torch.zeros(*expert.shape[:2], num_experts)), mode, universal).site(0)


def assignment(experts, top_k, universal, num_experts, dtype=torch.float64, mode="paper"):
    expert = torch.tensor(experts).view(1, -1, top_k)
    gate = torch.rand(expert.shape, dtype=dtype, requires_grad=True)
    return routed(expert, gate, num_experts, universal, mode), gate


def stack(slots, r, dtype=torch.float64):
    torch.manual_seed(slots + r)
    A = torch.randn(slots, r, 7, dtype=dtype, requires_grad=True)
    B = torch.randn(slots, 5, r, dtype=dtype, requires_grad=True)
    return A, B


@pytest.mark.parametrize("inner", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("universal", [True, False])
@pytest.mark.parametrize(
    ("experts", "slots", "top_k"),
    [
        ([2, 0, 3, 0, 1], 4, 1),
        ([1, 1, 1], 4, 1),
        ([3, 2, 1, 0], 4, 1),
        ([0, 1, 2], 4, 1),
        ([2], 4, 1),
        ([0, 0], 1, 1),
        ([1, 0, 2, 1, 0, 1], 3, 2),
        ([0, 1], 2, 2),
    ],
    ids=["mixed", "all share", "all differ", "in order", "one sample", "one expert", "top-2", "top-2, one sample"],
)
def test_grouped_equals_reference(inner, experts, slots, top_k, universal):
    A, B = stack(slots + universal, r=3)
    site, gate = assignment(experts, top_k, universal, slots)
    x = torch.randn(len(experts) // top_k, *inner, 7, dtype=torch.float64, requires_grad=True)
    leaves = (x, A, B, gate)
    found = grouped(x, A, B, site, 1.5)
    expected = reference(x, A, B, site, 1.5)
    direction = torch.randn_like(expected)
    found_gradients = torch.autograd.grad((found * direction).sum(), leaves)
    site_again = routed(site.slots[None, :, :top_k], gate, slots, universal)
    expected_gradients = torch.autograd.grad(
        (reference(x, A, B, site_again, 1.5) * direction).sum(), leaves, allow_unused=True
    )
    assert (found - expected).abs().max() < 1e-12
    for mine, theirs in zip(found_gradients, expected_gradients, strict=True):
        assert (mine - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("rank", [1, 3, 8, 13])
def test_plain_lora_is_the_only_expert(rank):
    A, B = stack(1, rank)
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    expected = 2.0 * (x @ A[0].T @ B[0].T)
    assert (grouped(x, A, B, None, 2.0) - expected).abs().max() < 1e-12
    assert (reference(x, A, B, None, 2.0) - expected).abs().max() < 1e-12


def test_unused_experts_get_zero_gradients_not_none():
    A, B = stack(5, r=2)
    site, _ = assignment([2, 2, 2], 1, True, 4)
    grouped(torch.randn(3, 4, 7, dtype=torch.float64), A, B, site, 1.0).square().sum().backward()
    for parameter in (A, B):
        norms = parameter.grad.flatten(1).norm(dim=1)
        assert (norms[[0, 1, 3]] == 0).all()
        assert (norms[[2, 4]] > 0).all()


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("mode", ["paper", "released"])
def test_collapsed_pair_equals_the_site_of_one_sample(top_k, mode):
    universal = top_k == 1
    A, B = stack(3 + universal, r=3)
    site, _ = assignment([2, 1][:top_k], top_k, universal, 3, mode=mode)
    pair_A, pair_B = collapsed_pair(A, B, site)
    assert pair_A.shape == (6, 7)
    x = torch.randn(1, 4, 7, dtype=torch.float64)
    expected = reference(x, A, B, site, 1.5)
    assert (1.5 * (x @ pair_A.T @ pair_B.T) - expected).abs().max() < 1e-12


def test_collapsed_pair_of_half_precision_is_fp32():
    A, B = stack(4, r=3, dtype=torch.bfloat16)
    site, _ = assignment([1], 1, True, 3, dtype=torch.float32)
    assert {part.dtype for part in collapsed_pair(A, B, site)} == {torch.float32}
