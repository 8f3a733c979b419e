"""Validation losses against sums worked by hand."""

import math

import pytest
import torch

from llava_mocle.training.loop.validation import LossByGroup, pack_ids, sample_losses


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
    groups = LossByGroup(["a", "b"])
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


def test_a_new_pass_starts_from_nothing() -> None:
    groups = LossByGroup(["a"])
    groups.add(torch.tensor([6.0]), torch.tensor([2.0]), None, None)
    assert groups.metrics() == {"eval_loss": 3.0}
    groups.reset()
    assert groups.metrics() == {}


def test_ids_that_are_absent_have_the_shape_of_those_that_are_there() -> None:
    like = torch.zeros(3)
    assert pack_ids(None, like).tolist() == [-1, -1, -1]
    assert pack_ids(None, like).dtype == torch.long
    assert pack_ids(torch.tensor([4, 5, 6]), like).tolist() == [4, 5, 6]
