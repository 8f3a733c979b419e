"""What each fairness mode makes of every method, worked by hand for r 4, E 4, and three domains."""

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.fairness import (
    Experts,
    Measure,
    alpha_of,
    experts_of,
    rank_of,
    share_of_steps,
    shares_of,
)
from llava_mocle.experiment.methods import STANDARD
from llava_mocle.recipe.keys import AdapterArguments

MEASURE = Measure(r=4, num_experts=4)  # activates 2 x 4 = 8 of 5 x 4 = 20
# method -> (activated, all) experts, and its rank under exposure, activated and total.
BY_HAND = {
    "single_domain": (1, 1, 8, 8, 7),  # 20 / 3 domains = 6.67
    "lora_activated": (1, 1, 8, 8, 20),
    "lora_total": (1, 1, 20, 8, 20),
    "lora_r": (1, 1, 4, 8, 20),
    "token": (1, 4, 4, 8, 5),
    "sentence": (1, 4, 4, 8, 5),
    "dataset": (1, 4, 4, 8, 5),
    "cluster": (1, 4, 4, 8, 5),
    "cluster_top2": (2, 4, 4, 4, 5),
    "mocle": (2, 5, 4, 4, 4),
}


@pytest.mark.parametrize("name", STANDARD)
def test_ranks(name: str) -> None:
    method, (activated, total, *ranks) = STANDARD[name], BY_HAND[name]
    experts = experts_of(AdapterArguments(num_experts=4, **method.keys))
    assert experts == Experts(activated, total)
    assert [rank_of(method, experts, MEASURE, mode, 3) for mode in ("exposure", "activated", "total")] == ranks


def test_a_rank_is_at_least_1() -> None:
    assert rank_of(STANDARD["token"], Experts(1, 64), Measure(1, 4), "total", 3) == 1


def test_alpha_follows_the_rank() -> None:
    adapter = AdapterArguments(lora_r=4, lora_alpha=8)
    assert [alpha_of(rank, adapter) for rank in (4, 5, 20)] == [8, 10, 40]
    with pytest.raises(ConfigError, match=r"at rank 5, .* would need lora_alpha 7.5; choose a lora_alpha"):
        alpha_of(5, AdapterArguments(lora_r=4, lora_alpha=6))


def test_shares_of_samples() -> None:
    shares = shares_of({"a": 100, "b": 50}, {"a": 1.0, "b": 4.0})
    assert shares == {"a": 100 / 300, "b": 200 / 300}
    assert [share_of_steps(280, share) for share in shares.values()] == [93, 187]
    assert share_of_steps(10, 0.001) == 1
