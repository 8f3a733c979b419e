"""What the gates do before the first step and after the last one, beside what random gates would do."""

import logging
import math

import numpy as np
import torch
from torch import Tensor

from llava_mocle.adapter import MocleModel
from llava_mocle.model.gathering import gathered

logger = logging.getLogger(__name__)

# Of what random gates would use: an adapter, or one expert, that is used less than this is called lost.
_LOST = 0.25
# And random gates would do as badly this rarely.
_CHANCE = 1e-3
# At the end of a run, more overturned choices than this mean that the noise still decides.
_STILL_NOISE = 0.5
_DRAWS = 32


def chance_idle(clusters: int, experts: int, top_k: int = 1) -> float:
    """The probability that random gates leave an expert of a site without any cluster: (1 - k / E) ** K."""
    return (1 - top_k / experts) ** clusters


def overturned_by_noise(clean_logits: Tensor, noise_std: float) -> float:
    """The share of choices that training noise overturns, the mean over clusters and sites, from 32 draws.

    Args:
        clean_logits: (S, K, E), as a router gives them.
    """
    clean = clean_logits.detach().float().cpu()
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers are left alone
    choice, changed = clean.argmax(dim=-1), 0.0
    for _ in range(_DRAWS):
        noise = torch.randn(clean.shape, generator=generator)
        changed += ((clean + noise_std * noise).argmax(dim=-1) != choice).float().mean().item()
    return changed / _DRAWS


def describe_start(tuner: MocleModel) -> str | None:
    """A sentence on the gates of a new adapter; None without noise. All processes call it together.

    None too where no gate is known without a sample: the token and sentence routers.
    """
    if not _has_gates_of_ids(tuner):
        return None
    share = _overturned(tuner)
    if share is None:
        return None
    config = tuner.peft_config[tuner.active_adapters[0]]
    return (
        f"gates at the start: the noise (std {config.noise_std:g}) overturns {100 * share:.0f} % of the choices. "
        f"That is normal before training (pure chance: {100 * (1 - 1 / config.num_experts):.0f} %), and falls as the "
        "gates learn"
    )


def describe_end(tuner: MocleModel) -> tuple[str, list[str]]:
    """A sentence on the gates of a trained adapter, and what is wrong with them. All processes call it together."""
    share = _overturned(tuner)
    with gathered(list(tuner.mocle_router.parameters())):
        gates = tuner.clean_gates().detach().float().cpu()
    top_k = tuner.peft_config[tuner.active_adapters[0]].top_k
    clusters, _, experts = gates.shape
    used = _chosen(gates, top_k).any(dim=0).sum(dim=-1).float().mean().item()
    expected = experts * (1 - chance_idle(clusters, experts, top_k))
    noise = "" if share is None else f"; noise would overturn {100 * share:.0f} % of the choices"
    summary = (
        f"gates at the end: the {clusters} clusters choose {used:.1f} of the {experts} experts of a site (mean; random "
        f"gates: {expected:.1f}){noise}"
    )
    problems = lost_experts(gates, tuner.sites, top_k)
    if share is not None and share > _STILL_NOISE:
        problems.append(
            f"noise still overturns {100 * share:.0f} % of the gates' choices at the end of the run (fewer than "
            f"{100 * _STILL_NOISE:.0f} % are expected), so samples reach experts at random: lower gate_noise_std "
            "(0 for a run of some hundred steps), or train longer"
        )
    return summary, problems


def lost_experts(gates: Tensor, sites: list[str], top_k: int = 1) -> list[str]:
    """What says that the gates have collapsed: little is used, and random gates would hardly ever use as little.

    "Little" is less than a quarter of what random gates use. For all clusters together: of the experts of a site beyond
    the `top_k` that a single cluster uses. For one expert: of the sites that use it. "Hardly ever" is one time in a
    thousand, by the exact distribution over S sites; for one expert divided by E, as there are E chances of a mistake.

    Args:
        gates: (K, S, E) noise-free gate probabilities.
        sites: the S site names.
        top_k: experts that a cluster uses at a site.
    """
    clusters, number, experts = gates.shape
    idle = chance_idle(clusters, experts, top_k)
    chosen = _chosen(gates, top_k).any(dim=0)  # (S, E)
    distinct = int(chosen.sum())
    beyond, expected = distinct / number - top_k, experts * (1 - idle) - top_k
    distribution = _distinct_experts(clusters, experts, top_k)
    if beyond < _LOST * expected and _at_most(distribution, number, distinct) < _CHANCE:
        return [
            f"the gates tell the {clusters} clusters hardly apart: they choose {distinct / number:.2f} of {experts} "
            f"experts of a site (mean of {number} sites), where random gates would choose {experts * (1 - idle):.2f}. "
            "Lower gate_learning_rate, or look at the clusters (`llava-mocle cluster inspect`)"
        ]
    messages = []
    for expert, taken in enumerate(chosen.sum(dim=0).tolist()):
        few = taken < _LOST * number * (1 - idle)
        if few and _at_most(np.array([idle, 1 - idle]), number, taken) < _CHANCE / experts:
            first = sites[int((~chosen[:, expert]).nonzero()[0])]
            messages.append(
                f"expert {expert} is nearly lost: no cluster chooses it at {number - taken} of {number} sites, where "
                f"random gates would leave it out at {number * idle:.0f} (first: {first})"
            )
    return messages


def warn_of_gates(tuner: MocleModel, shown: bool) -> None:
    """Print what `describe_end` finds, problems as warnings. All processes call it together; `shown` on one.

    Nothing is printed for the token and sentence routers, of which no gate is known without a sample.
    """
    if not _has_gates_of_ids(tuner):
        return
    summary, problems = describe_end(tuner)
    if shown:
        print(summary, flush=True)
        for problem in problems:
            logger.warning(problem)


def _has_gates_of_ids(tuner: MocleModel) -> bool:
    return tuner.peft_config[tuner.active_adapters[0]].has_gates_of_ids


def _overturned(tuner: MocleModel) -> float | None:
    name = tuner.active_adapters[0]
    config, router = tuner.peft_config[name], tuner.mocle_router[name]
    if config.noise_std == 0:
        return None
    with torch.no_grad(), gathered(list(router.parameters())):
        logits = router(torch.arange(config.num_clusters), noisy=False).clean_logits
    return overturned_by_noise(logits, config.noise_std)


def _chosen(gates: Tensor, top_k: int) -> Tensor:
    """(K, S, E) bool: the experts that each cluster uses at each site."""
    return torch.zeros_like(gates, dtype=torch.bool).scatter_(-1, gates.topk(top_k, dim=-1).indices, True)


def _distinct_experts(clusters: int, experts: int, top_k: int) -> np.ndarray:
    """(E + 1,): the probability of each number of distinct experts, if each cluster draws `top_k` of E at random."""
    probability = np.zeros(experts + 1)
    probability[0] = 1.0
    ways = math.comb(experts, top_k)
    for _ in range(clusters):
        after = np.zeros_like(probability)
        for used in range(experts + 1):
            for new in range(min(top_k, experts - used) + 1):
                draws = math.comb(experts - used, new) * math.comb(used, top_k - new)
                after[used + new] += probability[used] * draws / ways
        probability = after
    return probability


def _at_most(distribution: np.ndarray, number: int, total: int) -> float:
    """The probability that `number` independent draws from {0, 1, ...} add up to at most `total`."""
    sums = np.ones(1)
    for _ in range(number):
        sums = np.convolve(sums, distribution)
    return float(sums[: total + 1].sum())
