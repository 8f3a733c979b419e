"""A routing, worked out by hand: what each site gets, what beams get, and what the logs see."""

import pytest
import torch

from llava_mocle.adapter.routing import Gates, Routing, copy_to_host

from .fake_device import DeviceTensor

# Two sites, four samples, three experts.
EXPERT = torch.tensor([[2, 0, 2, 1], [0, 0, 1, 1]])
GATE = torch.tensor([[0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.9]])


def gates(expert=EXPERT, gate=GATE):
    clean_logits = torch.zeros(*expert.shape, 3)
    clean_logits.scatter_(-1, expert.unsqueeze(-1), 1.0)
    return Gates(expert.unsqueeze(-1), gate.unsqueeze(-1), clean_logits)


def test_a_site_gets_its_samples_sorted_by_expert():
    sites = [Routing(gates(), "paper", universal=True).site(index) for index in range(2)]
    first, second = (site.plan.expert_order for site in sites)
    assert first.order.tolist() == [1, 3, 0, 2]
    assert first.inverse.tolist() == [2, 0, 3, 1]
    assert first.runs == ((0, 1), (1, 1), (2, 2))
    assert not first.is_sorted
    assert second.order.tolist() == second.inverse.tolist() == [0, 1, 2, 3]
    assert second.runs == ((0, 2), (1, 2))
    assert second.is_sorted


def test_the_universal_expert_is_the_last_choice():
    first = Routing(gates(), "paper", universal=True).site(0)
    assert first.slots.tolist() == first.plan.table.tolist() == [[2, 3], [0, 3], [2, 3], [1, 3]]
    assert torch.equal(first.weight, torch.stack([GATE[0], 1 - GATE[0]], dim=-1))
    assert (first.universal, first.top_k) == (True, 1)


@pytest.mark.parametrize(("mode", "power"), [("paper", 1), ("released", 2)])
def test_weights_of_both_modes(mode, power):
    assert torch.equal(Routing(gates(), mode, universal=True).weight, GATE.unsqueeze(-1) ** power)
    routing = Routing(gates(), mode, universal=False)
    assert torch.equal(routing.weight, GATE.unsqueeze(-1))
    assert routing.universal_weight is None
    assert torch.equal(routing.site(0).weight, GATE[0].unsqueeze(-1))
    assert not routing.site(0).universal


def test_two_experts_a_sample_make_two_pairs():
    expert = torch.tensor([[[1, 0], [0, 2]]])
    site = Routing(Gates(expert, torch.rand(1, 2, 2), torch.rand(1, 2, 3)), "paper", universal=False).site(0)
    # The pairs are sample 0 with experts 1 and 0, then sample 1 with experts 0 and 2.
    assert site.plan.expert_order.order.tolist() == [1, 2, 0, 3]
    assert site.plan.expert_order.runs == ((0, 2), (1, 1), (2, 1))


def test_beams_follow_their_sample():
    repeated = Routing(gates(), "paper", universal=True).repeat(3)
    written_out = Routing(gates(EXPERT.repeat_interleave(3, 1), GATE.repeat_interleave(3, 1)), "paper", universal=True)
    assert repeated.num_samples == 12
    for index in range(2):
        found, expected = repeated.site(index), written_out.site(index)
        for name in ("slots", "weight"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert torch.equal(found.plan.table, expected.plan.table)


def test_statistics_say_where_noise_changed_the_choice():
    drawn = gates()
    drawn.clean_logits[1, 2] = torch.tensor([9.0, 0.0, 0.0])  # without noise, site 1 sends sample 2 to expert 0
    statistics = Routing(drawn, "released", universal=True).statistics()
    assert torch.equal(statistics.expert, EXPERT)
    assert torch.equal(statistics.weight, GATE**2)
    assert statistics.overturned.nonzero().tolist() == [[1, 2]]


def test_tensors_travel_to_the_host_together():
    DeviceTensor.reads.clear()
    tensors = [DeviceTensor(torch.arange(6).view(2, 3)), DeviceTensor(torch.tensor([7]))]
    found = copy_to_host(tensors)
    assert len(DeviceTensor.reads) == 1
    assert [part.tolist() for part in found] == [[[0, 1, 2], [3, 4, 5]], [7]]
    assert not any(isinstance(part, DeviceTensor) for part in found)


def test_repeating_reads_nothing_from_the_device():
    routing = Routing(Gates(*(DeviceTensor(part) for part in gates())), "paper", universal=True)
    DeviceTensor.reads.clear()
    assert routing.repeat(2).site(0).plan.expert_order.runs == ((0, 2), (1, 2), (2, 4))
    assert DeviceTensor.reads == []
