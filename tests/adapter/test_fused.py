"""Fused products against the definition, one sample and one expert at a time, in float64."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llava_mocle.adapter.fused import Experts, fused
from llava_mocle.adapter.kernels import batched, loops
from llava_mocle.adapter.product import grouped
from llava_mocle.adapter.routing import Gates, Routing

from .helpers import relative_error, tiny_peft, token_ids
from .reference_product import reference

# A rank whose experts are joined to one product, and one whose experts are not.
RANKS = {"joined": 3, "choice by choice": loops._JOINED_RANK + 1}
ROUTINGS = {
    "mixed": ([2, 0, 3, 0, 1], 1),
    "all share": ([1, 1, 1], 1),
    "all differ": ([3, 2, 1, 0], 1),
    "neighbours share": ([0, 0, 2, 2, 0], 1),
    "one sample": ([2], 1),
    "top-2": ([1, 0, 2, 1, 0, 1], 2),
}
E = 4


def leaves(samples, inner, rank, universal, dtype=torch.float64, width=7, out=5):
    torch.manual_seed(samples + rank)
    options = {"dtype": dtype, "requires_grad": True}
    x = torch.randn(samples, *inner, width, **options)
    base = torch.randn(samples, *inner, out, **options)
    A = torch.randn(E + universal, rank, width, **options)
    B = torch.randn(E + universal, out, rank, **options)
    gate = torch.rand(samples, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    return x, base, A, B, gate


def site(experts, top_k, gate, universal):
    """With gates that depend on one leaf for each sample."""
    expert = torch.tensor(experts).view(1, -1, top_k)
    gates = torch.stack([gate, gate / 3], dim=-1)[None, :, :top_k]
    return Routing(Gates(expert, gates, torch.zeros(1, len(gate), E)), "paper", universal).site(0)


@pytest.mark.parametrize("inner", [(3,), (1,), (2, 3), ()], ids=["3-D", "one token", "4-D", "2-D"])
@pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize(
    ("experts", "top_k", "universal"),
    [
        pytest.param(experts, top_k, universal, id=f"{name}, {'' if universal else 'no '}universal")
        for name, (experts, top_k) in ROUTINGS.items()
        for universal in ([True, False] if top_k == 1 else [False])
    ],
)
def test_values_and_all_gradients_equal_the_definition(experts, top_k, universal, rank, inner):
    parts = leaves(len(experts) // top_k, inner, rank, universal)
    x, base, A, B, gate = parts
    found = fused(base.clone(), x, A, B, site(experts, top_k, gate, universal), 1.5)
    expected = base + reference(x, A, B, site(experts, top_k, gate, universal), 1.5)
    direction = torch.randn_like(expected)
    mine = torch.autograd.grad((found * direction).sum(), parts)
    theirs = torch.autograd.grad((expected * direction).sum(), parts, materialize_grads=True)
    # Float64 sums of at most 33 x 7 products in another order.
    assert relative_error(found, expected) < 1e-13
    for a, b in zip(mine, theirs, strict=True):
        assert relative_error(a, b) < 1e-13


@pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
def test_a_plain_lora_is_the_only_expert(rank):
    x, base, A, B, _ = leaves(2, (3,), rank, False)
    expected = base + 2.0 * (x @ A[0].T @ B[0].T)
    assert relative_error(fused(base.clone(), x, A[:1], B[:1], None, 2.0), expected) < 1e-13


@pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
def test_a_gpus_kernels_take_the_place_of_the_loops(rank):
    """Here the batched GEMM takes it, which runs on a CPU too. It adds up in float32."""
    x, base, A, B, gate = (part.detach() for part in leaves(4, (9,), rank, True))
    assignment = site([0, 1, 0, 3], 1, gate, True)
    results = []
    for kernels in (None, batched.SEGMENTS):
        experts = Experts(x, A, B, assignment.weight, assignment.slots, assignment.plan.table)
        experts.way = kernels or experts.way
        out, of_x = base.clone(), torch.ones_like(x)
        hidden = experts.add_to(out, x)
        results.append([out, hidden, of_x, *experts.backward(base, x, hidden, of_x)])
    for mine, theirs in zip(*results, strict=True):
        assert relative_error(mine, theirs) < 1e-6


def test_an_expert_that_nobody_chose_has_a_gradient_of_zeros():
    x, base, A, B, gate = leaves(3, (4,), 2, True)
    fused(base.clone(), x, A, B, site([2, 2, 2], 1, gate, True), 1.0).square().sum().backward()
    for parameter in (A, B):
        norms = parameter.grad.flatten(1).norm(dim=1)
        assert (norms[[0, 1, 3]] == 0).all()
        assert (norms[[2, 4]] > 0).all()


@pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision_is_as_near_to_the_definition_as_the_plain_path(dtype, tolerance, rank):
    # Sums of 40 terms, rounded to 8 or 11 bits at four places.
    x, base, A, B, gate = leaves(4, (9,), rank, True, dtype, width=40, out=24)
    exact = [part.detach().double().requires_grad_() for part in (x, base, A, B, gate)]
    expected = exact[1] + reference(exact[0], exact[2], exact[3], site([0, 1, 0, 3], 1, exact[4], True), 0.5)
    direction = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * direction).sum(), exact)
    found = fused(base.clone(), x, A, B, site([0, 1, 0, 3], 1, gate, True), 0.5)
    mine = torch.autograd.grad((found * direction.to(dtype)).sum(), (x, base, A, B, gate))
    assert found.dtype == dtype
    assert relative_error(found.double(), expected) < tolerance
    for a, b in zip(mine, theirs, strict=True):
        assert relative_error(a.double(), b) < tolerance


def test_inputs_that_are_not_contiguous():
    x, base, A, B, gate = leaves(3, (4,), 2, True)
    turned = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    turned_base = base.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assignment = site([1, 0, 1], 1, gate, True)
    expected = base + reference(x, A, B, assignment, 1.0)
    assert relative_error(fused(turned_base, turned, A, B, assignment, 1.0), expected) < 1e-13


class _QuantizedLinear(torch.autograd.Function):
    """As bitsandbytes writes one: with a bias, the output is a view that is made inside the function."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.saved_tensors[0], None, None


@pytest.mark.parametrize("linear", [F.linear, _QuantizedLinear.apply], ids=["torch's", "a quantized one"])
@pytest.mark.parametrize("differentiated", [True, False])
def test_a_base_with_a_bias(linear, differentiated):
    x, base, A, B, gate = leaves(3, (4,), 2, True)
    x.requires_grad_(differentiated)
    weight, bias = torch.randn(5, 7, dtype=torch.float64), base.detach()[0, 0]
    assignment, wanted = site([1, 0, 1], 1, gate, True), [A, B, gate, *([x] if differentiated else [])]
    viewed = linear(x, weight, bias)
    assert viewed._is_view()
    found = fused(viewed, x, A, B, assignment, 0.7)
    expected = F.linear(x, weight, bias) + reference(x, A, B, assignment, 0.7)
    # float64, sums of some tens of terms.
    assert relative_error(found, expected) < 1e-13
    found, expected = (
        torch.autograd.grad(output.square().sum(), wanted, retain_graph=True) for output in (found, expected)
    )
    assert all(relative_error(mine, theirs) < 1e-13 for mine, theirs in zip(found, expected, strict=True))


def test_a_second_backward_through_the_first_is_refused():
    x, base, A, B, gate = leaves(2, (3,), 2, True)
    output = fused(base.clone(), x, A, B, site([1, 0], 1, gate, True), 1.0)
    (of_x,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_x.sum().backward()


def test_only_x_and_the_hidden_states_are_kept_for_the_backward_pass():
    x, base, A, B, gate = leaves(4, (50,), 3, True)
    assignment, kept = site([1, 0, 1, 2], 1, gate, True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fused(base.clone(), x, A, B, assignment, 1.0)
    # By tokens: x (7 columns) and the hidden states (2 choices of rank 3). The rest has no tokens.
    assert sorted(part.shape[-1] for part in kept if part.shape[:2] == (4, 50)) == [6, 7]


def test_torch_compile_sees_one_graph():
    x, base, A, B, gate = leaves(3, (4,), 2, True, torch.float32)
    assignment = site([1, 0, 1], 1, gate, True)
    parts = (x, base, A, B)

    def run(x, base, A, B, weight):
        return fused(base * 1.0, x, A, B, assignment._replace(weight=weight), 1.0)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*parts, assignment.weight), run(*parts, assignment.weight)
    assert relative_error(found, expected) < 1e-6
    mine = torch.autograd.grad(found.square().sum(), parts, retain_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), parts)
    for a, b in zip(mine, theirs, strict=True):
        assert relative_error(a, b) < 1e-6


# ------ in a model


def gradients(model, ids, clusters, **options):
    model.zero_grad()
    torch.manual_seed(11)  # of noise and dropout
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.pop("autocast", False)):
        loss = model(input_ids=ids, labels=ids, cluster_ids=clusters, **options).loss
    loss.backward()
    named = model.named_parameters()
    return loss.item(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"lora_dropout": 0.4}, {"universal_expert": False, "top_k": 2}, {"r": 40}])
def test_a_model_trains_as_on_the_plain_path(changes):
    model = tiny_peft(**changes).train()
    ids, clusters = token_ids(5), torch.tensor([0, 4, 4, 1, 0])
    found_loss, found = gradients(model, ids, clusters)
    model.base_model.fused = False
    expected_loss, expected = gradients(model, ids, clusters)
    # float32 sums in another order, through two layers.
    assert found_loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name in expected:
        assert relative_error(found[name], expected[name]) < 2e-5, name


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_the_parameters():
    model = tiny_peft().train()
    ids, clusters = token_ids(4), torch.tensor([0, 4, 4, 1])
    found_loss, found = gradients(model, ids, clusters, autocast=True)
    model.base_model.fused = False
    expected_loss, expected = gradients(model, ids, clusters, autocast=True)
    # Both round to bfloat16 (8 bits) at many places, not at the same.
    assert found_loss == pytest.approx(expected_loss, rel=2e-2)
    for name in expected:
        assert found[name].dtype == torch.float32
        assert relative_error(found[name], expected[name]) < 0.2, name


def test_experts_kept_wider_than_the_base_take_the_plain_path():
    torch.manual_seed(0)
    model = tiny_peft()
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "experts_" in name:
            parameter.data = parameter.data.float()
    ids, clusters = token_ids(2), torch.tensor([0, 1])
    found = model(input_ids=ids, cluster_ids=clusters).logits
    model.base_model.fused = False
    assert torch.equal(found, model(input_ids=ids, cluster_ids=clusters).logits)


def assert_checkpointing_changes_nothing(model):
    ids, clusters = token_ids(3), torch.tensor([2, 0, 3])
    expected_loss, expected = gradients(model, ids, clusters)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found_loss, found = gradients(model, ids, clusters)
    assert found_loss == expected_loss
    for name in expected:
        assert relative_error(found[name], expected[name]) < 1e-6, name


def test_gradient_checkpointing_recomputes_the_same():
    assert_checkpointing_changes_nothing(tiny_peft().train())


def assert_same_curve(fast):
    """Twenty steps of this model, and of a copy of it on the plain path, have the same losses."""
    slow = copy.deepcopy(fast)
    slow.base_model.fused = False
    curves = []
    for model in (fast, slow):
        torch.manual_seed(5)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=2e-3)
        losses = []
        for step in range(20):
            ids = token_ids(4, seed=step)
            loss = model(input_ids=ids, labels=ids, cluster_ids=torch.tensor([step % 5, 1, 1, 3])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert curves[0][-1] < curves[0][0]


def test_twenty_steps_follow_the_same_curve():
    assert_same_curve(tiny_peft().train())


def test_a_fused_product_may_be_recomputed_by_hand():
    x, _, A, B, gate = leaves(2, (3,), 2, True)
    assignment = site([1, 0], 1, gate, True)

    def run(x):
        return fused(F.linear(x, torch.ones(5, 7, dtype=x.dtype)), x, A, B, assignment, 1.0)

    (found,) = torch.autograd.grad(checkpoint(run, x, use_reentrant=False).sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(run(x).sum(), x)
    assert torch.equal(found, expected)


def test_the_oracle_is_the_plain_path_itself():
    x, base, A, B, gate = leaves(3, (4,), 2, True)
    assignment = site([1, 0, 1], 1, gate, True)
    assert (
        relative_error(fused(base.clone(), x, A, B, assignment, 2.0), base + grouped(x, A, B, assignment, 2.0)) < 1e-13
    )
