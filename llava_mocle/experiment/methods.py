"""The standard methods of a comparison, each as the recipe keys that it changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# On which the verdict rests.
SINGLE_DOMAIN, BASELINE, OURS = "single_domain", "lora_activated", "mocle"


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        name: of its folder, and in every table.
        about: what it is, in a few words.
        keys: the recipe keys that it sets.
        rank: of a plain LoRA under `fairness: exposure`: "r", "activated" or "total" (see fairness.py); None: a method
            with experts, whose rank is the recipe's.
        per_domain: it is trained once for each domain, on that domain alone.
    """

    name: str
    about: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict, hash=False)
    rank: str | None = None
    per_domain: bool = False


def _lora(name: str, about: str, rank: str, per_domain: bool = False) -> Method:
    return Method(name, about, {"adapter": "lora"}, rank, per_domain)


def _routed(name: str, about: str, adapter: str, top_k: int = 1) -> Method:
    return Method(name, about, {"adapter": adapter, "top_k": top_k})


STANDARD = {
    method.name: method
    for method in (
        _lora(SINGLE_DOMAIN, "one LoRA a domain, trained on that domain alone", "activated", per_domain=True),
        _lora(BASELINE, "one LoRA for all domains, of the rank that MoCLE activates", "activated"),
        _lora("lora_total", "one LoRA for all domains, of the rank of all of MoCLE's experts together", "total"),
        _lora("lora_r", "one LoRA for all domains, of the rank of one expert", "r"),
        _routed("token", "experts chosen by each token, without a universal expert", "token"),
        _routed("sentence", "experts chosen by the instruction's embedding in the model", "sentence"),
        _routed("dataset", "experts chosen by the name of the domain", "dataset"),
        _routed("cluster", "experts chosen by the instruction's cluster, without a universal expert", "cluster"),
        _routed("cluster_top2", "the same with two experts a sample", "cluster", top_k=2),
        _routed(OURS, "MoCLE: experts chosen by cluster, and a universal expert", "mocle"),
    )
}
