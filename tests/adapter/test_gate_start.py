"""gate_init="balanced": which clusters share an expert, and what their gates are at the start."""

import itertools

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file

from llava_mocle.adapter.gate_start import PREFERENCE, balanced_gates, balanced_groups
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.errors import ConfigError

from .helpers import config, tiny_llama, token_ids


def as_sets(groups: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset((groups == group).nonzero().flatten().tolist()) for group in groups.unique()}


def test_by_hand():
    # On a line: 0, 1, 2 lie together, and so do 10, 11. The even share is 5.
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]]).double()
    even = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]).double()
    assert as_sets(balanced_groups(points, even, 2)) == {frozenset({0, 1, 2}), frozenset({3, 4})}
    # Cluster 0 alone is an even share of 8 and more, so its neighbours go with the far ones.
    heavy = torch.tensor([9.0, 1.0, 2.0, 2.0, 2.0]).double()
    assert as_sets(balanced_groups(points, heavy, 2)) == {frozenset({0}), frozenset({1, 2, 3, 4})}
    # As many groups as clusters, or more: each cluster for itself, also one without samples.
    few = torch.tensor([5.0, 0.0, 0.0, 1.0, 0.0]).double()
    for number in (5, 7):
        groups = balanced_groups(points, few, number)
        assert sorted(groups.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(8))
def test_loads_are_bounded_and_no_group_is_empty(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(20, 3, generator=generator).double()
    counts = torch.rand(20, generator=generator).double() ** 4 * 1000
    groups = balanced_groups(points, counts, 4)
    loads = [float(counts[groups == group].sum()) for group in range(4)]
    assert all((groups == group).any() for group in range(4))
    assert max(loads) < float(counts.sum()) / 4 + float(counts.max())
    assert torch.equal(groups, balanced_groups(points, counts, 4))


def test_near_clusters_share_a_group():
    """Four heaps of four equal clusters: of all ways to divide them evenly, the one with the least spread is found."""
    generator = torch.Generator().manual_seed(3)
    heaps = torch.eye(4).double().repeat_interleave(4, dim=0)
    order = torch.randperm(16, generator=generator)
    points = (heaps + 0.05 * torch.randn(16, 4, generator=generator).double())[order]
    groups = balanced_groups(points, torch.ones(16).double(), 4)
    expected = [frozenset((order // 4 == heap).nonzero().flatten().tolist()) for heap in range(4)]
    assert as_sets(groups) == set(expected)


@pytest.mark.parametrize("gate_mode", ["paper", "released"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_every_site_prefers_the_group_of_a_cluster(tmp_path, gate_mode, temperature):
    centroids = torch.nn.functional.normalize(torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) + 1, dim=1)
    counts = torch.tensor([9.0, 1.0, 1.0, 5.0, 1.0, 3.0])
    save_file({"centroids": centroids, "counts": counts}, tmp_path / "centroids.safetensors")
    options = {"centroids": tmp_path, "num_clusters": None, "cluster_dim": None, "num_experts": 3}
    settings = config(gate_init="balanced", gate_mode=gate_mode, temperature=temperature, **options)
    model = get_peft_model(tiny_llama(), settings)
    gates = model.clean_gates().double()
    groups = balanced_groups(centroids.double(), counts.double(), 3)
    assert len(groups.unique()) == 3
    for (cluster, site), expert in itertools.product(itertools.product(range(6), range(4)), range(3)):
        expected = PREFERENCE if expert == groups[cluster] else (1 - PREFERENCE) / 2
        # float32 logits over a small temperature; the released softmax is in fp16, with 11 bits.
        assert abs(gates[cluster, site, expert] - expected) < (1e-3 if gate_mode == "released" else 2e-5)
    model.save_pretrained(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "saved")
    assert torch.equal(loaded.clean_gates(), model.clean_gates())


def test_random_numbers_are_drawn_as_ever():
    """So that experts start the same whatever `gate_init` says, and two runs differ in their gates alone."""
    models = []
    for gate_init in ("random", "balanced"):
        torch.manual_seed(1)
        models.append(get_peft_model(tiny_llama(), config(gate_init=gate_init)))
    random, balanced = (dict(model.named_parameters()) for model in models)
    differ = {name for name in random if not torch.equal(random[name], balanced[name])}
    assert differ == {"base_model.mocle_router.default.gate_weight"}


def test_without_counts_all_clusters_count_alike():
    points = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    settings = config(gate_init="balanced")
    expected = balanced_gates(settings, points, torch.full((5,), 7.0))
    assert torch.equal(balanced_gates(settings, points, None), expected)
    assert torch.equal(balanced_gates(settings, points, torch.zeros(5)), expected)
    chosen = gate_probabilities(points @ expected.t(), settings.temperature).max(dim=1).values
    assert torch.allclose(chosen, torch.full((5,), PREFERENCE), atol=1e-5)


def test_more_clusters_than_dimensions_are_refused():
    with pytest.raises(ConfigError, match="linearly independent, but the 9 centroids of dimension 4"):
        balanced_gates(config(), torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), None)


def test_while_a_model_is_laid_out_on_meta(tmp_path):
    save_file({"centroids": torch.eye(6, 10), "counts": torch.ones(6)}, tmp_path / "centroids.safetensors")
    settings = config(centroids=tmp_path, num_clusters=None, cluster_dim=None, gate_init="balanced")
    with torch.device("meta"):
        model = get_peft_model(tiny_llama(), settings)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_gates_learn_from_there():
    model = get_peft_model(tiny_llama(), config(gate_init="balanced")).train()
    batch = token_ids(3)
    model(input_ids=batch, labels=batch, cluster_ids=[4, 0, 2]).loss.backward()
    assert model.mocle_router["default"].gate_weight.grad.abs().max() > 0
