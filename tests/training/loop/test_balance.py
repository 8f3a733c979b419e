"""The balance loss of a step does not depend on how its samples are divided over micro-batches and processes."""

import pytest
import torch

from llava_mocle.training.loop.balance import BalanceLoss

# Six samples, the fourth with nothing to learn; their balance, and the mean of those that count.
LABELS = torch.tensor([[1, 2, 3], [-100, -100, 4], [5, 6, -100], [9, -100, -100], [-100, 7, 8], [1, 1, 1]])
PARTS = torch.tensor([1.5, 2.0, 1.0, 9.0, 3.0, 2.5])
MEAN = (1.5 + 2.0 + 1.0 + 3.0 + 2.5) / 5


class Tuner:
    """Gives the parts of one micro-batch after the other."""

    active_adapters = ("default",)

    def __init__(self, places: list[list[int]]) -> None:
        self.peft_config = {"default": type("", (), {"balance_loss_weight": 0.5})}
        self.parts = [PARTS[part].requires_grad_() for part in places]
        self.left = iter(self.parts)
        self.counted: list[list[bool]] = []

    def balance_losses(self, counted, sum_over):
        self.counted.append(counted.tolist())
        return next(self.left)


class Accelerator:
    """One of two processes; the other one's counts are added, as far as there is another."""

    device = torch.device("cpu")

    def __init__(self, processes: int = 1, others: float = 0.0) -> None:
        self.num_processes, self.others = processes, others

    def reduce(self, tensor, reduction):
        assert reduction == "sum"
        return tensor + self.others


def run(places: list[list[int]], accelerator: Accelerator) -> tuple[list[torch.Tensor], BalanceLoss, Tuner]:
    tuner = Tuner(places)
    balance = BalanceLoss(tuner, accelerator)
    balance.start_step([{"labels": LABELS[part]} for part in places])
    return [balance.of(LABELS[part]) for part in places], balance, tuner


@pytest.mark.parametrize("places", [[[0, 1, 2, 3, 4, 5]], [[0, 1], [2, 3], [4, 5]], [[3], [0, 1, 2, 4, 5]]])
def test_micro_batches_add_up_to_the_mean_over_the_samples_that_count(places) -> None:
    losses, balance, tuner = run(places, Accelerator())
    assert sum(losses).item() == pytest.approx(0.5 * MEAN, rel=1e-6)
    assert [one for part in tuner.counted for one in part].count(False) == 1
    assert balance.pop()["routing/balance"] == pytest.approx(MEAN, rel=1e-6)
    assert balance.pop() == {}


def test_processes_average_to_the_mean_over_all_their_samples() -> None:
    """Gradients are averaged over processes. This one has samples 0 to 2, the other one the last three."""
    first, _, _ = run([[0, 1, 2]], Accelerator(2, others=2.0))
    second, _, _ = run([[3, 4, 5]], Accelerator(2, others=3.0))
    assert (first[0] + second[0]).item() / 2 == pytest.approx(0.5 * MEAN, rel=1e-6)
