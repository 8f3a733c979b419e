"""What is made equal between methods: the samples seen of each domain, and the adapter's rank.

In every mode all methods see the same number of samples of each domain, in all-domain runs by the same steps, and in a
single-domain run by its domain's share of them. Ranks are counted in multiples of one LoRA of rank 1, whose two
matrices have the same size in every method; gates and cluster embedding are not counted. The measure is MoCLE as the
recipe has it, with rank r and E experts: it activates 2 r (a chosen and the universal expert) of (E + 1) r.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.methods import Method
from llava_mocle.recipe.keys import AdapterArguments


@dataclass(frozen=True)
class Experts:
    """How many experts of the same rank an adapter has at a site, and through how many of them a token passes."""

    activated: int
    total: int


def experts_of(adapter: AdapterArguments) -> Experts:
    """The experts of an adapter of any kind; a plain LoRA is one."""
    if adapter.adapter == "lora":
        return Experts(1, 1)
    if adapter.adapter == "mocle":
        return Experts(2, adapter.num_experts + 1)
    return Experts(adapter.top_k, adapter.num_experts)


@dataclass(frozen=True)
class Measure:
    """The rank of MoCLE's experts and their number, as the recipe has them: what the other methods' ranks follow."""

    r: int
    num_experts: int

    @property
    def activated(self) -> int:
        return 2 * self.r

    @property
    def total(self) -> int:
        return (self.num_experts + 1) * self.r


def rank_of(method: Method, experts: Experts, measure: Measure, fairness: str, domains: int) -> int:
    """The rank of each of a method's experts.

    exposure: a method with experts has rank r; a plain LoRA the rank that its name says (r, 2 r or (E + 1) r), and a
    single-domain LoRA 2 r, so that it differs from `lora_activated` by its data alone.
    activated: rank times activated experts is 2 r.
    total: rank times all experts is (E + 1) r; the single-domain LoRAs of all domains together have it.

    Args:
        experts: of the method.
        domains: how many domains are compared.

    Returns:
        Rounded to a whole number, and at least 1: the report has the real numbers of parameters.
    """
    if fairness == "activated":
        return _whole(measure.activated / experts.activated)
    if fairness == "total":
        return _whole(measure.total / (experts.total * (domains if method.per_domain else 1)))
    named = {"r": measure.r, "activated": measure.activated, "total": measure.total}
    return measure.r if method.rank is None else named[method.rank]


def alpha_of(rank: int, adapter: AdapterArguments) -> int:
    """The `lora_alpha` with which `lora_alpha` over `lora_r` is as in the recipe.

    Raises:
        ConfigError: it is no whole number.
    """
    alpha = rank * adapter.lora_alpha / adapter.lora_r
    if alpha != int(alpha):
        raise ConfigError(
            f"lora_alpha is {adapter.lora_alpha} and lora_r {adapter.lora_r}: at rank {rank}, which another method "
            f"has, the same scaling would need lora_alpha {alpha:g}; choose a lora_alpha that is a multiple of lora_r"
        )
    return int(alpha)


def shares_of(sizes: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, float]:
    """The share of each domain in the samples of an all-domain run; they sum to 1.

    Args:
        sizes: rows of each domain.
        rates: how often each of its rows is met in an epoch: `repeat`, or what follows from the weights.
    """
    samples = {name: sizes[name] * rates[name] for name in sizes}
    return {name: count / sum(samples.values()) for name, count in samples.items()}


def share_of_steps(steps: int, share: float) -> int:
    """The steps in which a single-domain run sees as many samples of its domain as an all-domain run; at least 1."""
    return _whole(steps * share)


def _whole(value: float) -> int:
    return max(1, int(value + 0.5))
