"""Samples of several clusters, or of none wholly: against the paper's formulas, one sample at a time in float64."""

import itertools

import pytest
import torch
from peft import get_peft_model

from llava_mocle.adapter.mixture import distinct_mixtures
from llava_mocle.errors import RoutingError

from .helpers import TwoSites, config, plain_lora, relative_error, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(3)
IDS = torch.tensor([[4, 1], [0, 2], [2, 2]])
WEIGHTS = torch.tensor([[0.7, 0.3], [0.5, 0.1], [0.25, 0.75]])


def mixed_site(x, linear, experts, logits, weights, settings):
    """One site: x (B, in); logits (B, n, E) and weights (B, n) of each sample's clusters."""
    A, B = experts
    outputs = []
    for row in range(len(x)):
        probabilities = torch.zeros(settings.num_experts, dtype=x.dtype)
        for cluster in range(weights.shape[1]):
            share = torch.exp(logits[row, cluster] / settings.temperature)
            probabilities += weights[row, cluster] * share / share.sum()
        chosen = sorted(range(settings.num_experts), key=lambda e: -probabilities[e].item())[: settings.top_k]
        mixed = sum(probabilities[e] * (x[row] @ A[e].T @ B[e].T) for e in chosen)
        if settings.universal_expert:
            mixed = mixed + (1 - probabilities[chosen[0]]) * (x[row] @ A[-1].T @ B[-1].T)
        outputs.append(x[row] @ linear.weight.T + linear.bias + settings.lora_alpha / settings.r * mixed)
    return torch.stack(outputs)


@pytest.mark.parametrize("changes", [{}, {"universal_expert": False, "top_k": 2}, {"universal_expert": False}])
@pytest.mark.parametrize("columns", [2, 1])
def test_the_formulas(changes, columns):
    torch.manual_seed(0)
    settings = config(target_modules=["first", "second"], task_type=None, **changes)
    model = get_peft_model(TwoSites().double(), settings).eval()
    x, ids, weights = torch.randn(3, 7).double(), IDS[:, :columns], WEIGHTS[:, :columns].double()
    found = model(x, cluster_ids=ids, cluster_weights=weights)
    router, base = model.mocle_router["default"], model.base_model.model
    logits = torch.einsum("sed,kd->ske", router.gate_weight.double(), router.cluster_embedding.double())
    expected = x
    for site, name in enumerate(("first", "second")):
        layer = getattr(base, name)
        stack = layer.mocle_experts["default"]
        experts = (stack.experts_A, stack.experts_B)
        expected = mixed_site(expected, layer.base_layer, experts, logits[site][ids], weights, settings)
        expected = torch.tanh(expected) if name == "first" else expected
    assert relative_error(found, expected) < 1e-12  # float64, with another order of the sums
    routing = model.base_model.last_routing()
    assert not routing.overturned.any()
    if settings.universal_expert:
        assert torch.equal(routing.universal_weight, 1 - routing.gate)


def test_whole_weight_on_one_cluster_is_that_cluster():
    model = tiny_peft()
    expected = model(input_ids=BATCH, cluster_ids=[4, 0, 2]).logits
    whole = torch.tensor([[1.0, 0.0]]).expand(3, -1)
    found = model(input_ids=BATCH, cluster_ids=torch.tensor([[4, 1], [0, 3], [2, 2]]), cluster_weights=whole).logits
    assert torch.equal(found, expected)
    assert torch.equal(model(input_ids=BATCH, cluster_ids=[4, 0, 2], cluster_weights=torch.ones(3)).logits, expected)


def test_without_any_weight_the_universal_expert_answers_alone():
    model = tiny_peft()
    nothing = model(input_ids=BATCH, cluster_ids=[4, 0, 2], cluster_weights=torch.zeros(3)).logits
    assert torch.equal(model.last_routing().universal_weight, torch.ones(4, 3))
    base = tiny_llama().double()
    for name in model.sites:
        experts = model.base_model.model.get_submodule(name).mocle_experts["default"]
        A, B = experts.experts_A[-1].detach().double(), experts.experts_B[-1].detach().double()
        base.get_submodule(name).weight.data += 6 / 3 * B @ A
    assert relative_error(nothing.double(), base(input_ids=BATCH).logits) < 1e-5  # float32 against float64


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2)], ids=["mixed", "alone"])
@pytest.mark.parametrize("beams", [1, 2])
def test_cached_decoding_equals_whole_forwards(rows, beams):
    """Alone, a sample is answered by a pair for its mixture; the mask and the cache are as ever."""
    model = tiny_peft().requires_grad_(False)
    routing = {"cluster_ids": IDS[rows], "cluster_weights": WEIGHTS[rows]}
    prompt = BATCH[rows]
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    with torch.no_grad():
        answer = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **routing, **options)
        again = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), **routing, **options, use_cache=False
        )
        assert torch.equal(answer, again)
        if beams == 1:
            for step in range(4):
                logits = model(input_ids=answer[:, : 6 + step], **routing).logits[:, -1]
                assert torch.equal(logits.argmax(dim=-1), answer[:, 6 + step])


def test_a_pair_belongs_to_its_mixture():
    model = tiny_peft().requires_grad_(False)
    options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    seen = []
    for weights in ([0.7, 0.3], [0.3, 0.7], None):
        routing = {"cluster_ids": torch.tensor([4])}
        if weights is not None:
            routing = {"cluster_ids": IDS[:1], "cluster_weights": torch.tensor([weights])}
        prompt = BATCH[:1]
        with torch.no_grad():
            found = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **routing, **options)
            expected = model(input_ids=prompt, **routing).logits[:, -1]
        assert relative_error(found.logits[0], expected) < 1e-5  # concatenated, the sums have another order
        seen.append(expected)
    assert min((one - other).abs().max() for one, other in itertools.pairwise(seen)) > 1e-2


def test_which_routings_differ():
    assert distinct_mixtures([1, 2, 1], None) == {1, 2}
    assert len(distinct_mixtures([[1, 2], [1, 2], [1, 3]], [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])) == 2
    assert len(distinct_mixtures([1, 1], [0.5, 0.25])) == 2
    assert len(distinct_mixtures(torch.tensor([1, 1]), torch.tensor([0.5, 0.5]))) == 1


@pytest.mark.parametrize(
    ("ids", "weights", "words"),
    [
        (None, WEIGHTS, "without cluster_ids"),
        (IDS, WEIGHTS[:, :1], r"shapes \(3, 1\) of torch.float32 and \(3, 2\)"),
        (IDS, WEIGHTS.long(), "of torch.int64"),
        (IDS[:2], WEIGHTS[:2], "has 2 rows but the batch has 3 samples"),
        (IDS, WEIGHTS - 0.2, "of sample 1 are .*expected numbers from 0"),
        (IDS, WEIGHTS + torch.tensor([0.0, 0.2]), "of sample 0 are .*at most 1"),
        (IDS, WEIGHTS * torch.nan, "of sample 0 are"),
        (IDS + 2, WEIGHTS, r"cluster_ids holds \[6\]"),
        (IDS, None, r"shape \(3, 2\)"),
    ],
)
def test_what_is_wrong_with_them(ids, weights, words):
    with pytest.raises(RoutingError, match=words):
        tiny_peft()(input_ids=BATCH, cluster_ids=ids, cluster_weights=weights)


def test_who_has_no_use_for_them():
    with pytest.raises(RoutingError, match="this adapter reads dataset_ids"):
        tiny_peft(router="dataset")(input_ids=BATCH, dataset_ids=[0, 1, 2], cluster_weights=torch.ones(3))
    fixed = tiny_peft(gates="fixed", num_experts=5, universal_expert=False)
    with pytest.raises(RoutingError, match="gates='fixed' has none"):
        fixed(input_ids=BATCH, cluster_ids=[0, 1, 2], cluster_weights=torch.ones(3))
    lora = get_peft_model(tiny_llama(), plain_lora()).eval()
    plain = lora(input_ids=BATCH).logits
    assert torch.equal(lora(input_ids=BATCH, cluster_ids=[0, 1, 2], cluster_weights=torch.ones(3)).logits, plain)
    merged = tiny_peft()
    merged.merge_adapter(cluster=1)
    with pytest.raises(RoutingError, match=r"cluster 1 .* is merged into the weights, which cluster_weights cannot"):
        merged(input_ids=BATCH, cluster_ids=[1, 1, 1], cluster_weights=torch.ones(3))
