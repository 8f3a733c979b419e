"""Validation losses against sums worked by hand."""

import math

import pytest
import torch

from llava_mocle.training.loop.validation import LossByGroup, sample_losses


def test_losses_are_summed_over_the_supervised_tokens_of_each_sample() -> None:
    # Three tokens; in the first sample the last two are supervised, in the second only the last. The probabilities of
    # the token that comes next are 1/2, 1/4 and 1/4, whatever came before.
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25])).expand(2, 3, 3)
    labels = torch.tensor([[0, 0, 1], [-100, -100, 2]])
    losses, counts = sample_losses(logits, labels)
    assert losses.tolist() == pytest.approx([math.log(2) + math.log(4), math.log(4)])
    assert counts.tolist() == [2.0, 1.0]
    assert losses.dtype == counts.dtype == torch.float32


def test_a_sample_without_supervised_tokens_counts_nothing() -> None:
    losses, counts = sample_losses(torch.randn(1, 4, 5), torch.full((1, 4), -100))
    groups = LossByGroup(["a"])
    groups.add(losses, counts, torch.tensor([0]), None)
    assert groups.metrics() == {}


def test_losses_by_dataset_and_cluster() -> None:
    groups = LossByGroup(["a", "b"], 6)
    losses, counts = torch.tensor([6.0, 8.0, 3.0]), torch.tensor([2.0, 4.0, 1.0])
    groups.add(losses, counts, torch.tensor([0, 1, 1]), torch.tensor([5, 0, 5]))
    groups.add(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0]), torch.tensor([-1]))
    assert groups.metrics() == pytest.approx(
        {
            "eval_loss": 18 / 8,
            "eval_loss_a": 7 / 3,
            "eval_loss_b": 11 / 5,
            "eval_loss_cluster_0": 2.0,
            "eval_loss_cluster_5": 3.0,
        }
    )


def test_the_sums_of_all_processes_are_divided_by_the_counts_of_all() -> None:
    groups = LossByGroup(["a"])
    groups.add(torch.tensor([6.0]), torch.tensor([2.0]), torch.tensor([0]), None)
    other = torch.tensor([[9.0, 1.0], [9.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    metrics = groups.metrics(lambda sums, reduction: {"sum": sums + other}[reduction])
    assert metrics == {"eval_loss": 5.0, "eval_loss_a": 5.0}


def test_a_new_pass_starts_from_nothing() -> None:
    groups = LossByGroup(["a"])
    groups.add(torch.tensor([6.0]), torch.tensor([2.0]), None, None)
    assert groups.metrics() == {"eval_loss": 3.0}
    groups.reset()
    assert groups.metrics() == {}
