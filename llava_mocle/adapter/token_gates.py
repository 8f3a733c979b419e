"""The token router (LLaVA-MoLE): every token chooses its experts at every site, by what the site sees of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.learned_gates import balance, choice_share, gates_of_sites, weights_of_kept
from llava_mocle.errors import RoutingError


class TokenGate(nn.Module):
    """The gate of one site, or of a block. It stands in the site that calls it, as ZeRO-3 requires.

    Parameters:
        weight: (E, in_features).
        bias: (E,), only with `gate_bias`.
    """

    def __init__(self, config: MocleConfig, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, in_features))
        self.bias = nn.Parameter(torch.empty(config.num_experts)) if config.gate_bias else None
        with torch.no_grad():  # as in nn.Linear
            for parameter in self.parameters():
                parameter.uniform_(-(in_features**-0.5), in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (..., E) of tokens x (..., in), in fp32 or better, outside autocast."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            if x.dtype == dtype == self.weight.dtype:
                logits = F.linear(x, self.weight)
            else:
                logits = cast(Tensor, _WideLinear.apply(x, self.weight, dtype))
            return logits if self.bias is None else logits + self.bias.to(dtype)


class _WideLinear(torch.autograd.Function):
    """x W^T in a wider dtype than x has. It keeps x as it is: a wider copy would be the largest tensor that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.to(dtype), weight.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        of_x = (gradient @ weight.to(gradient.dtype)).to(x.dtype)
        of_weight = gradient.flatten(0, -2).t() @ x.flatten(0, -2).to(gradient.dtype)
        return of_x, of_weight.to(weight.dtype), None


class TokenWeights(NamedTuple):
    """Stands for a site's `Assignment`.

    Attributes:
        weight: (B, ..., E), what each expert's output is multiplied by; 0 for experts that a token did not choose.
    """

    weight: Tensor


def per_token(x: Tensor, experts_A: Tensor, experts_B: Tensor, weight: Tensor, scaling: float) -> Tensor:
    """The experts' output (B, ..., out): all experts in two products, those not chosen zeroed between them.

    So nothing is sorted, the CPU waits for nothing, and every expert takes part in autograd on every rank.

    Args:
        x: (B, ..., in).
        experts_A: (E, r, in).
        experts_B: (E, out, r).
        weight: (B, ..., E).
    """
    hidden = F.linear(x, experts_A.flatten(0, 1)).unflatten(-1, experts_A.shape[:2])
    hidden = (hidden * (scaling * weight).unsqueeze(-1)).to(hidden.dtype)
    return F.linear(hidden.flatten(-2), experts_B.transpose(0, 1).flatten(1))


@dataclass(frozen=True)
class TokenStatistics:
    """What all tokens of a forward chose, padding left out: S sites.

    Attributes:
        share: (S, E), the share of the tokens whose strongest expert each was.
        gate: (S,), the mean weight of the strongest expert.
        overturned: (S,), the share of the tokens whose choice noise changed.
    """

    share: Tensor
    gate: Tensor
    overturned: Tensor

    def means(self, num_experts: int) -> dict[str, Tensor]:
        """As `RoutingStatistics.means`."""
        shares = {f"expert_{expert}": self.share[:, expert] for expert in range(num_experts)}
        return {"gate": self.gate, "overturned": self.overturned, **shares}


class TokenRouting:
    """The token router of one adapter, shared by its sites: which gate decides where, and what was chosen.

    Args:
        config: the adapter's.
        sites: their names, in the order of the model.
    """

    def __init__(self, config: MocleConfig, sites: Sequence[str]) -> None:
        self.config = config
        self.sites = list(sites)
        self._gate_of = gates_of_sites(sites, config.gate_sharing)
        self._members = Counter(self._gate_of)
        self.forget()

    def forget(self) -> None:
        """Forget what was chosen."""
        self._recording = False
        self._mask: Tensor | None = None
        # Of each gate whose block is running: the weights, and how many of its sites still need them.
        self._held: dict[int, tuple[Tensor, int]] = {}
        self._statistics: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._balance: dict[int, Tensor] = {}

    def start(self, mask: Tensor | None, recording: bool) -> None:
        """A forward begins.

        Args:
            mask: (B, T), not 0 where a token is no padding; None: none is.
            recording: whether to record what is chosen until `finish`. What is recomputed later is not recorded again.
        """
        self.forget()
        self._mask, self._recording = mask, recording

    def finish(self) -> None:
        """The forward is over; what it recorded stays."""
        self._recording = False

    @property
    def with_gates(self) -> set[str]:
        """Names of the sites that hold a gate: the first of each block that shares one."""
        return {self.sites[self._gate_of.index(number)] for number in self._members}

    def choose(self, site: int, gate: TokenGate | None, x: Tensor) -> TokenWeights:
        """What the tokens of a site's input choose.

        Args:
            site: its place in the order of the sites.
            gate: the site's own; None where the gate of its block has decided.
            x: (B, ..., in).

        Raises:
            RoutingError: the site of the gate was not called before this one, or saw other tokens.
        """
        number = self._gate_of[site]
        if gate is not None:
            weight = self._decide(number, gate, x)
            if self._members[number] > 1:
                self._held[number] = weight, self._members[number] - 1
            return TokenWeights(weight)
        held, left = self._held.pop(number, (None, 0))
        if held is None or held.shape[:-1] != x.shape[:-1]:
            lead = self.sites[self._gate_of.index(number)]
            raise RoutingError(
                f"gate_sharing='block': {self.sites[site]} was not called after {lead}, whose gate decides for it, on "
                "the same tokens; adapt other modules, or use gate_sharing='site'."
            )
        if left > 1:
            self._held[number] = held, left - 1
        return TokenWeights(held)

    def _decide(self, number: int, gate: TokenGate, x: Tensor) -> Tensor:
        config = self.config
        clean = gate(x)
        noisy = gate.training and config.noise_std > 0
        logits = clean + config.noise_std * torch.randn_like(clean) if noisy else clean
        probability = gate_probabilities(logits, config.temperature)
        kept, expert = probability.topk(config.top_k, dim=-1)
        kept = weights_of_kept(kept, config.expert_weight)
        if config.balance_loss_weight and gate.training and torch.is_grad_enabled():
            # Also while a checkpoint is recomputed, which has to do the same as before.
            part = self._balance_of(probability, expert)
            if self._recording:
                self._balance[number] = part
        if self._recording:
            self._statistics[number] = self._describe(clean.detach(), kept.detach(), expert)
        return torch.zeros_like(probability).scatter(-1, expert, kept)

    def _own_tokens(self, like: Tensor) -> Tensor:
        """(B, ..., 1) of 1 and 0: which tokens are no padding, for (B, T, E) or (B, E).

        Raises:
            RoutingError: the mask is not of these tokens.
        """
        if self._mask is None or like.ndim != 3:
            return torch.ones_like(like[..., :1])
        samples, length = like.shape[:2]
        if self._mask.shape[0] != samples or self._mask.shape[1] < length:
            raise RoutingError(
                f"attention_mask has shape {tuple(self._mask.shape)}, but an adapted module sees {samples} samples of "
                f"{length} tokens, so it is not known which of them are padding; pass a mask (B, T) of all tokens."
            )
        return (self._mask[:, -length:] != 0).to(like).unsqueeze(-1)  # with a cache, the mask is of earlier tokens too

    def _balance_of(self, probability: Tensor, expert: Tensor) -> Tensor:
        """(B,): the balance of each sample over its own tokens."""
        own = self._own_tokens(probability)
        share = choice_share(expert, probability.shape[-1]).to(probability)
        tokens = tuple(range(1, probability.ndim - 1))
        if not tokens:
            return balance(share, probability)
        count = own.sum(dim=tokens).clamp(min=1)
        return balance((share * own).sum(dim=tokens) / count, (probability * own).sum(dim=tokens) / count)

    def _describe(self, clean: Tensor, kept: Tensor, expert: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Share of each expert (E,), mean weight, and share of overturned choices."""
        own = self._own_tokens(clean)[..., 0].flatten()
        first = expert[..., 0].flatten()
        count = own.sum().clamp(min=1)
        share = torch.zeros_like(clean[(0,) * (clean.ndim - 1)]).index_add_(0, first, own) / count
        changed = (clean.argmax(dim=-1).flatten() != first).to(own)
        return share, (kept[..., 0].flatten() * own).sum() / count, (changed * own).sum() / count

    def statistics(self) -> TokenStatistics | None:
        """What the last forward chose; None before the first one, and after `generate`."""
        if len(self._statistics) < len(self._members):
            return None
        device = self._statistics[0][0].device
        rows = [[part.to(device) for part in self._statistics[number]] for number in self._gate_of]
        return TokenStatistics(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def balance_losses(self) -> Tensor | None:
        """(B,): the mean over the gates of each sample's balance, with its gradient; None if none was recorded."""
        if not self._balance:
            return None
        parts = list(self._balance.values())
        return torch.stack([part.to(parts[0].device) for part in parts]).mean(dim=0)

    def __getstate__(self) -> Mapping[str, Any]:
        # A copy has seen no forward: tensors of a live autograd graph cannot be copied.
        blank = TokenRouting(self.config, self.sites)
        return vars(blank)
