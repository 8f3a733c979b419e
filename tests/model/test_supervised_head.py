"""Losses in place of logits, against torch's cross-entropy of all logits, in float64 where numbers are compared."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llava_mocle.model.supervised_head import (
    SupervisedHead,
    next_tokens,
    supervised_positions,
    token_losses,
)

B, T, D, V = 3, 7, 5, 11


def make(bias: bool = False, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A frozen linear, hidden states, and labels of which some are supervised: in one row none, in one the first."""
    torch.manual_seed(1)
    linear = nn.Linear(D, V, bias=bias).to(dtype).requires_grad_(False)
    hidden = torch.randn(B, T, D, dtype=dtype)
    labels = torch.randint(0, V, (B, T))
    labels[torch.rand(B, T) < 0.4] = -100
    labels[1] = -100
    labels[2, 0] = 4
    return linear, hidden, labels


def reference(linear: nn.Linear, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the supervised tokens and, weighted by 1, 2, 3..., the gradient of the hidden states; in float64."""
    hidden = hidden.double().requires_grad_()
    logits = F.linear(hidden, linear.weight.double(), None if linear.bias is None else linear.bias.double())
    found = []
    for row in range(B):
        for place in range(T - 1):
            if labels[row, place + 1] != -100:
                found.append(-logits[row, place].log_softmax(0)[labels[row, place + 1]])
    losses = torch.stack(found)
    (losses * torch.arange(1, len(losses) + 1)).sum().backward()
    return losses.detach(), hidden.grad


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_losses_and_gradient(bias: bool, chunk: int) -> None:
    linear, hidden, labels = make(bias)
    expected, expected_gradient = reference(linear, hidden, labels)
    hidden.requires_grad_()
    positions = supervised_positions(labels)
    losses = token_losses(
        hidden.flatten(0, 1), linear.weight, linear.bias, positions, next_tokens(labels).flatten()[positions], chunk
    )
    assert losses.dtype == torch.float32
    # Float32 sums of a dozen numbers near 1.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
    (losses * torch.arange(1, len(losses) + 1)).sum().backward()
    torch.testing.assert_close(hidden.grad.double(), expected_gradient, rtol=1e-6, atol=1e-5)


def test_the_head_is_the_linear_but_for_where_it_supervises() -> None:
    linear, hidden, labels = make(bias=True)
    head = SupervisedHead(linear)
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    assert dict(head.named_parameters()).keys() == dict(linear.named_parameters()).keys()
    assert torch.equal(head(hidden), linear(hidden))
    with head.supervising(labels):
        losses = head(hidden)
    torch.testing.assert_close(losses.double(), reference(linear, hidden, labels)[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(head(hidden), linear(hidden))
    with head.supervising(labels, supervised_positions(labels)):
        assert torch.equal(head(hidden), losses)
    copied = copy.deepcopy(head)
    assert torch.equal(copied(hidden), linear(hidden))


def test_a_token_without_a_row_before_it_is_not_predicted() -> None:
    labels = torch.tensor([[5, -100, 6, 7], [-100, -100, -100, 8]])
    assert next_tokens(labels).tolist() == [[-100, 6, 7, -100], [-100, -100, 8, -100]]
    assert supervised_positions(labels).tolist() == [1, 2, 6]


def test_a_batch_without_supervision_has_no_loss_and_a_gradient_of_zeros() -> None:
    linear, hidden, labels = make()
    hidden.requires_grad_()
    head = SupervisedHead(linear)
    with head.supervising(torch.full_like(labels, -100)):
        losses = head(hidden)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros(B, T, D))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_16_bit(dtype: torch.dtype, autocast: bool) -> None:
    """As close to float64 as torch's own path in the same dtype: within twice its largest error."""
    linear, hidden, labels = make(dtype=torch.float32 if autocast else dtype)
    expected, expected_gradient = reference(linear, hidden, labels)
    positions, weights = supervised_positions(labels), torch.arange(1, len(expected) + 1)

    def errors(losses: torch.Tensor, hidden: torch.Tensor) -> tuple[float, float]:
        (losses * weights).sum().backward()
        assert hidden.grad.dtype == hidden.dtype
        return (
            (losses.double() - expected).abs().max().item(),
            (hidden.grad.double() - expected_gradient).abs().max().item(),
        )

    with torch.autocast("cpu", dtype, enabled=autocast):
        own = hidden.clone().requires_grad_()
        head = SupervisedHead(linear)
        with head.supervising(labels):
            losses = head(own)
        plain = hidden.clone().requires_grad_()
        logits = linear(plain).float().flatten(0, 1)[positions]
        theirs = F.cross_entropy(logits, next_tokens(labels).flatten()[positions], reduction="none")
    found, usual = errors(losses, own), errors(theirs, plain)
    assert found[0] <= 2 * usual[0]
    assert found[1] <= 2 * usual[1]


def test_logits_of_some_hundreds_neither_overflow_nor_vanish() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    losses = token_losses(hidden, weight, None, torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert losses.tolist() == [0.0, 600.0]
    losses.sum().backward()
    assert hidden.grad.tolist() == [[0.0], [-2.0]]


def test_a_second_derivative_is_refused() -> None:
    linear, hidden, labels = make()
    hidden.requires_grad_()
    head = SupervisedHead(linear)
    with head.supervising(labels):
        losses = head(hidden)
    (gradient,) = torch.autograd.grad(losses.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_nothing_is_kept_for_a_gradient_that_nobody_wants() -> None:
    linear, hidden, labels = make()
    head = SupervisedHead(linear)
    with head.supervising(labels), torch.no_grad():
        assert not head(hidden.requires_grad_()).requires_grad
    with head.supervising(labels):
        assert not head(hidden.detach()).requires_grad


def test_logits_that_were_cut_are_refused() -> None:
    linear, hidden, labels = make()
    head = SupervisedHead(linear)
    with head.supervising(labels), pytest.raises(ValueError, match=r"\(3, 1, 5\) for labels \(3, 7\).*logits_to_keep"):
        head(hidden[:, -1:])


def test_it_runs_inside_a_compiled_model() -> None:
    linear, hidden, labels = make()
    head = SupervisedHead(linear)
    compiled = torch.compile(nn.Sequential(nn.Tanh(), head), backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(hidden), linear(hidden.tanh()))
        with head.supervising(labels):
            assert torch.equal(compiled(hidden), head(hidden.tanh()))
