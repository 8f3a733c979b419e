"""A model's head and loss on supervised tokens alone: no logits of the other tokens, and never those of all at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from llava_mocle.data.tokenize import IGNORE_INDEX
from llava_mocle.families.registry import family_of

# Float32 logits that are held at a time: on a CPU, 340 tokens of a vocabulary of 49,152. There, chunks of 128 tokens
# are as fast as one product for all, and of 16 a third slower.
_CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**28}


def next_tokens(labels: Tensor) -> Tensor:
    """What each position is to predict: labels (..., T) shifted by one to the left, -100 at the end."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


def supervised_positions(labels: Tensor) -> Tensor:
    """The places (N,) long in the flattened labels (B, T) that are to predict a supervised token, in order.

    How many there are decides the shape, so a GPU is waited for where the labels are on one.
    """
    return (next_tokens(labels) != IGNORE_INDEX).flatten().nonzero().flatten()


def tokens_at_a_time(kind: str, vocab: int) -> int:
    """Of how many tokens a device of this kind (`cpu`, `cuda`) holds logits over `vocab` entries at a time."""
    return max(1, _CHUNK_BYTES.get(kind, 2**26) // (4 * vocab))


class SupervisedHead(nn.Linear):
    """A head that can give losses in place of logits. It takes the place of a model's output embeddings.

    It holds the parameters of the linear that it replaces, so their names, ties, and partitions under ZeRO-3 stay.
    Outside of `supervising` it is that linear.
    """

    def __init__(self, linear: nn.Linear) -> None:
        bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self._wanted: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def supervising(self, labels: Tensor, positions: Tensor | None = None) -> Iterator[None]:
        """Inside the block, a forward of the model has losses where it else has logits.

        `outputs.logits` are then the negative log-likelihoods (N,) of the supervised tokens in nats, float32, in the
        order of `positions`. The model must not be given the labels, or it would compute a loss of its own.

        Args:
            labels: (B, T), -100 where a token is not supervised; not shifted.
            positions: `supervised_positions(labels)`, which computes them where they are None.
        """
        if positions is None:
            positions = supervised_positions(labels)
        self._wanted = positions, labels
        try:
            yield
        finally:
            self._wanted = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (B, T, V) of hidden states (B, T, d), or inside of `supervising` losses (N,)."""
        if self._wanted is None:
            return super().forward(hidden)
        positions, labels = self._wanted
        if hidden.shape[:-1] != labels.shape:
            raise ValueError(
                f"the head got hidden states {tuple(hidden.shape)} for labels {tuple(labels.shape)}; expected one for "
                "each label: leave logits_to_keep out"
            )
        targets = next_tokens(labels.to(hidden.device)).flatten()
        positions = positions.to(hidden.device)
        return token_losses(hidden.flatten(0, -2), self.weight, self.bias, positions, targets[positions])


@torch.compiler.disable
def token_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor, targets: Tensor, chunk: int | None = None
) -> Tensor:
    """Negative log-likelihoods (N,) in nats, float32, of some tokens; differentiable once, by `hidden`.

    It computes the logits of some tokens at a time, and with them what the gradient needs: softmax less one-hot, times
    the weight. So neither logits nor probabilities are kept for backward, and the head is not computed again. Under
    autocast the products are in its dtype, as those of a linear; the softmax is always in float32.

    Args:
        hidden: (M, d).
        weight: (V, d), not differentiated.
        bias: (V,), likewise.
        positions: (N,), rows of `hidden`, each at most once.
        targets: (N,), the tokens' ids.
        chunk: how many tokens at a time; None: as many as suit the device.
    """
    if chunk is None:
        chunk = tokens_at_a_time(hidden.device.type, len(weight))
    return _TokenLosses.apply(
        hidden, weight, bias, positions, targets, chunk, hidden.requires_grad and torch.is_grad_enabled()
    )


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        chunk: int,
        differentiated: bool,
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        # Once for all chunks: autocast would cast a frozen weight for each.
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        chosen = hidden.index_select(0, positions).to(dtype)
        losses = torch.empty(len(positions), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(chosen) if differentiated else None
        for start in range(0, len(positions), chunk):
            part = slice(start, start + chunk)
            target = targets[part, None]
            logs = F.linear(chosen[part], weight, bias).log_softmax(dim=1, dtype=torch.float32)
            losses[part] = -logs.gather(1, target).flatten()
            if gradient is not None:
                logs.exp_().scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
                gradient[part] = logs.to(dtype) @ weight
            del logs  # not to be there beside those of the next tokens
        ctx.save_for_backward(gradient, positions)
        ctx.like = hidden.shape, hidden.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        gradient, positions = ctx.saved_tensors
        shape, dtype = ctx.like
        whole = torch.zeros(shape, dtype=dtype, device=gradient.device)
        whole.index_copy_(0, positions, (gradient * upstream[:, None]).to(dtype))
        return whole, None, None, None, None, None, None


def why_not(model: Any) -> str | None:
    """Why a model's head cannot give losses in place of logits; None where it can.

    Args:
        model: of a known family, with whatever is trained of it told by `requires_grad`.
    """
    behind = family_of(model.config).behind_the_head(model.config)
    if behind:
        return f"its configuration has {behind}, which may change logits behind the head"
    head = model.get_output_embeddings()
    if isinstance(head, SupervisedHead):
        return None
    if type(head) is not nn.Linear:
        return f"the model's head is a {type(head).__name__}, and not a plain linear"
    if any(parameter.requires_grad for parameter in head.parameters()):
        return "the head is trained itself"
    if "forward" in vars(head) or head._forward_hooks or head._forward_pre_hooks:
        return "something watches or wraps the head's forward"
    return None


def put_supervised_head(model: Any) -> SupervisedHead:
    """Put a `SupervisedHead` into the place of a model's head, for which `why_not` is None; returns it."""
    head = model.get_output_embeddings()
    if not isinstance(head, SupervisedHead):
        head = SupervisedHead(head)
        model.set_output_embeddings(head)
    return head
