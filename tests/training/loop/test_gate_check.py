"""What is said of a run's gates, against probabilities worked by hand and gates that are balanced, random or lost."""

import logging
import math

import pytest
import torch

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.gate_check import (
    _at_most,
    _distinct_experts,
    chance_idle,
    lost_experts,
    overturned_by_noise,
)
from llava_mocle.training.run import train

SITES = [f"layers.{index // 2}.mlp.{'up_proj' if index % 2 else 'down_proj'}" for index in range(60)]


def gates_of(choices: torch.Tensor, experts: int) -> torch.Tensor:
    """(K, S, E) gates that choose `choices` (K, S)."""
    return torch.nn.functional.one_hot(choices, experts).float()


def test_what_chance_leaves_out() -> None:
    assert chance_idle(4, 4) == pytest.approx(81 / 256)
    assert chance_idle(4, 4, top_k=2) == pytest.approx(1 / 16)
    assert chance_idle(2, 4) == pytest.approx(9 / 16)
    assert chance_idle(5, 1) == 0


def test_how_many_experts_random_gates_use() -> None:
    assert _distinct_experts(2, 3, 1).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 0])
    assert _distinct_experts(2, 3, 2).tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3])
    # Four clusters, four experts: 4, 4 * 21, ... of 256 (surjections of four onto one, two, three, four).
    assert _distinct_experts(4, 4, 1).tolist() == pytest.approx([0, 4 / 256, 84 / 256, 144 / 256, 24 / 256])
    # A fair coin, thrown four times: at most one head in 5 cases of 16.
    assert _at_most(torch.tensor([0.5, 0.5]).numpy(), 4, 1) == pytest.approx(5 / 16)


@pytest.mark.parametrize(("clusters", "experts", "top_k"), [(4, 4, 1), (64, 4, 1), (2, 4, 1), (4, 4, 2), (1, 4, 1)])
def test_random_gates_are_no_reason_to_worry(clusters: int, experts: int, top_k: int) -> None:
    for seed in range(20):
        gates = torch.rand(clusters, 60, experts, generator=torch.Generator().manual_seed(seed))
        assert lost_experts(gates, SITES, top_k) == []


def test_balanced_gates_are_no_reason_to_worry() -> None:
    choices = torch.arange(4)[:, None].expand(4, 60)
    assert lost_experts(gates_of(choices, 4), SITES) == []


def test_an_expert_that_half_of_the_sites_leave_out_is_no_reason_to_worry() -> None:
    choices = torch.arange(4)[:, None].repeat(1, 60)
    choices[0, :33] = 1  # expert 0: no cluster chooses it at 33 of 60 sites
    assert lost_experts(gates_of(choices, 4), SITES) == []


def test_a_lost_expert_is_named_beside_what_chance_does() -> None:
    choices = torch.arange(4)[:, None].repeat(1, 60)
    choices[3, :58] = 0
    assert lost_experts(gates_of(choices, 4), SITES) == [
        "expert 3 is nearly lost: no cluster chooses it at 58 of 60 sites, where random gates would leave it out at 19 "
        "(first: layers.0.mlp.down_proj)"
    ]


@pytest.mark.parametrize("site_by_site", [False, True], ids=["one expert everywhere", "another expert at each site"])
def test_gates_that_do_not_tell_clusters_apart(site_by_site: bool) -> None:
    choices = (torch.arange(60) * int(site_by_site) % 4)[None].expand(4, 60)
    (message,) = lost_experts(gates_of(choices, 4), SITES)
    # 4 * (1 - 81 / 256) = 2.73.
    assert "choose 1.00 of 4 experts of a site (mean of 60 sites), where random gates would choose 2.73" in message


def test_few_sites_prove_nothing() -> None:
    assert lost_experts(gates_of(torch.zeros(2, 4, dtype=torch.long), 2), SITES[:4]) == []


def test_how_often_noise_overturns_a_choice() -> None:
    clean = torch.zeros(50, 10, 2)
    clean[..., 0] = 0.1
    # Two experts 0.1 apart: overturned where the difference of two draws of std 0.1 exceeds 0.1, which is at
    # 1 - Phi(1 / sqrt(2)) = 0.2398. 16,000 draws: three standard errors are 0.010.
    expected = 0.5 * math.erfc(0.5)
    assert overturned_by_noise(clean, 0.1) == pytest.approx(expected, abs=0.010)
    assert overturned_by_noise(clean, 0.0) == 0


def test_a_run_says_what_its_gates_do(recipe_file, capsys, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe_file()))
    out = capsys.readouterr().out
    assert "gates at the start: the noise (std 0.1) overturns " in out
    assert "That is normal before training (pure chance: 67 %)" in out
    # Two clusters, three experts: 3 * (1 - 4 / 9) = 1.67.
    assert "of the 3 experts of a site (mean; random gates: 1.7); noise would overturn " in out
    assert "expert" not in caplog.text
    assert "overturns" not in caplog.text


def test_noise_that_still_decides_at_the_end_is_a_warning(recipe_file, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        train(load_recipe(recipe_file(gate_learning_rate=0.0, gate_noise_std=5.0)))
    assert "noise still overturns 6" in caplog.text
    assert "lower gate_noise_std" in caplog.text


def test_gates_without_noise_say_nothing_of_it(recipe_file, capsys) -> None:
    train(load_recipe(recipe_file(gate_noise_std=0.0, max_steps=1)))
    out = capsys.readouterr().out
    assert "gates at the start" not in out
    assert "random gates: 1.7)\n" in out
