"""The whole method at two sites against a per-sample loop: values, and gradients of A, B, gates, C and the input."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from .helpers import TwoSites, config, expected_site, plain_lora, relative_error, tiny_llama, token_ids

MIXED, SHARED, ALL_DIFFERENT = [3, 0, 4, 0, 1, 2], [2, 2, 2], [4, 3, 2, 1, 0]
CASES = {
    "3-D": {"ids": MIXED, "inner": (4,)},
    "2-D": {"ids": MIXED, "inner": ()},
    "one sample": {"ids": [3], "inner": (4,)},
    "one token": {"ids": MIXED, "inner": (1,)},
    "one expert": {"ids": MIXED, "inner": (4,), "num_experts": 1},
    "two experts": {"ids": MIXED, "inner": (3,), "num_experts": 2},
    "rank 1": {"ids": MIXED, "inner": (4,), "r": 1},
    "rank 13": {"ids": MIXED, "inner": (4,), "r": 13},
    "shared": {"ids": SHARED, "inner": (4,)},
    "all different": {"ids": ALL_DIFFERENT, "inner": (4,)},
    "no universal": {"ids": MIXED, "inner": (4,), "universal_expert": False},
    "top-2": {"ids": MIXED, "inner": (4,), "universal_expert": False, "top_k": 2},
    "top-2, 2-D": {"ids": MIXED, "inner": (), "universal_expert": False, "top_k": 2},
    "released": {"ids": MIXED, "inner": (4,), "gate_mode": "released"},
    "released, 2-D": {"ids": SHARED, "inner": (), "gate_mode": "released"},
    "released, top-2": {
        "ids": MIXED,
        "inner": (2,),
        "gate_mode": "released",
        "universal_expert": False,
        "top_k": 2,
    },
}


def build(ids, inner, dtype, noise=0.0, **changes):
    settings = config(
        task_type=None, target_modules=["first", "second"], **{"gate_noise_std": noise, "temperature": 0.3, **changes}
    )
    torch.manual_seed(0)
    model = get_peft_model(TwoSites().to(dtype), settings, autocast_adapter_dtype=False).to(dtype)
    x = torch.randn(len(ids), *inner, 7, dtype=dtype, requires_grad=True)
    return model, settings, x, torch.tensor(ids)


def expected_output(model, settings, x, ids, noise=None):
    router = model.base_model.mocle_router["default"]
    base = model.base_model.model
    released = settings.gate_mode == "released"

    def site(layer, value, index):
        rows = []
        for b, cluster in enumerate(ids.tolist()):
            embedding = router.cluster_embedding[index, cluster] if released else router.cluster_embedding[cluster]
            logits = router.gate_weight[index] @ embedding
            if released:
                logits = logits + router.gate_bias[index]
            rows.append(logits if noise is None else logits + noise[index, b])
        experts = layer.mocle_experts["default"]
        return expected_site(
            value, layer.base_layer, (experts.experts_A, experts.experts_B), torch.stack(rows), settings
        )

    return site(base.second, torch.tanh(site(base.first, x, 0)), 1)


def compare(model, x, found, expected):
    """Largest absolute error of the output, and of every gradient relative to 1 or its own size."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    direction = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    leaves = [x, *parameters.values()]
    mine = torch.autograd.grad((found * direction).sum(), leaves)
    theirs = torch.autograd.grad((expected * direction).sum(), leaves, allow_unused=True)
    assert {name.split(".")[-1] for name in parameters} >= {
        "experts_A",
        "experts_B",
        "gate_weight",
        "cluster_embedding",
    }
    errors = [(found - expected).abs().max().item()]
    for left, right in zip(mine, theirs, strict=True):
        right = torch.zeros_like(left) if right is None else right
        errors.append(((left - right).abs().max() / right.abs().max().clamp(min=1)).item())
    return max(errors)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float64(case):
    model, settings, x, ids = build(dtype=torch.float64, **case)
    model.eval()
    assert compare(model, x, model(x, cluster_ids=ids), expected_output(model, settings, x, ids)) < 1e-10


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32(case):
    model, settings, x, ids = build(dtype=torch.float32, **case)
    model.eval()
    assert compare(model, x, model(x, cluster_ids=ids), expected_output(model, settings, x, ids)) < 1e-5


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bfloat16(case):
    """bf16 weights and inputs against float64 arithmetic on the same (rounded) values."""
    model, settings, x, ids = build(dtype=torch.bfloat16, **case)
    found = model.eval()(x, cluster_ids=ids)
    assert found.dtype == torch.bfloat16
    expected = expected_output(model.to(torch.float64), settings, x.double(), ids)
    assert relative_error(found.double(), expected) < 2e-2


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_noise_is_drawn_once_at_the_root_with_the_stated_std(mode):
    case = {"ids": MIXED, "inner": (4,), "gate_mode": mode}
    model, settings, x, ids = build(dtype=torch.float64, noise=0.7, **case)
    model.train()
    torch.manual_seed(5)
    found = model(x, cluster_ids=ids)
    torch.manual_seed(5)
    noise = 0.7 * torch.randn(2, len(ids), settings.num_experts, dtype=torch.float64)
    assert compare(model, x, found, expected_output(model, settings, x, ids, noise)) < 1e-10
    assert model.last_routing().overturned.any()
    model.eval()
    assert (model(x, cluster_ids=ids) - expected_output(model, settings, x, ids)).abs().max() < 1e-10
    assert not model.last_routing().overturned.any()


def test_autocast_keeps_gates_in_fp32_and_the_result_close():
    model, settings, x, ids = build(dtype=torch.float32, ids=MIXED, inner=(4,))
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x, cluster_ids=ids)
    assert found.dtype == torch.bfloat16
    assert model.last_routing().gate.dtype == torch.float32
    expected = expected_output(model.double(), settings, x.double(), ids)
    assert relative_error(found.double(), expected) < 2e-2
    found.sum().backward()
    assert model.base_model.mocle_router["default"].cluster_embedding.grad.abs().sum() > 0


def test_fp32_experts_beside_a_bf16_base_take_bf16_inputs():
    settings = config(task_type=None, target_modules=["first", "second"])
    torch.manual_seed(0)
    model = get_peft_model(TwoSites().to(torch.bfloat16), settings).eval()
    dtypes = {p.dtype for p in model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    x, ids = torch.randn(3, 4, 7, dtype=torch.bfloat16), torch.tensor([0, 1, 2])
    found = model(x, cluster_ids=ids)
    assert found.dtype == torch.bfloat16
    expected = expected_output(model.double(), settings, x.double(), ids)
    assert relative_error(found.double(), expected) < 2e-2


def test_one_dtype_for_everything_without_adapter_autocast():
    settings = config(task_type=None, target_modules=["first", "second"])
    model = get_peft_model(TwoSites().to(torch.bfloat16), settings, autocast_adapter_dtype=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_router_none_is_pefts_own_lora():
    mine = get_peft_model(tiny_llama(), plain_lora())
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["up_proj", "down_proj"], r=3, lora_alpha=6)
    theirs = get_peft_model(tiny_llama(), lora)
    for name in mine.sites:
        experts = mine.get_base_model().get_submodule(name).mocle_experts["default"]
        layer = theirs.get_base_model().get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(experts.experts_A[0])
        layer.lora_B["default"].weight.data.copy_(experts.experts_B[0])
    batch = {"input_ids": token_ids(3), "labels": token_ids(3)}
    # The same batch serves both: a plain LoRA takes cluster ids and ignores them.
    found, expected = mine(**batch, cluster_ids=torch.tensor([0, 1, 2])), theirs(**batch)
    assert relative_error(found.logits, expected.logits) < 1e-6
    found.loss.backward()
    expected.loss.backward()
    for name in mine.sites:
        experts = mine.get_base_model().get_submodule(name).mocle_experts["default"]
        layer = theirs.get_base_model().get_submodule(name)
        assert relative_error(experts.experts_A.grad[0], layer.lora_A["default"].weight.grad) < 1e-5
        assert relative_error(experts.experts_B.grad[0], layer.lora_B["default"].weight.grad) < 1e-5


def test_a_new_adapter_is_the_identity_and_starts_like_lora():
    base = tiny_llama()
    batch = token_ids(2)
    expected = base(input_ids=batch).logits
    model = get_peft_model(base, config(init_lora_weights=True)).eval()
    assert torch.equal(model(input_ids=batch, cluster_ids=[0, 1]).logits, expected)
    experts = model.get_base_model().get_submodule(model.sites[0]).mocle_experts["default"]
    bound = experts.experts_A.shape[2] ** -0.5
    assert (experts.experts_B == 0).all()
    assert 0.9 * bound < experts.experts_A.abs().max() <= bound


def test_dropout_acts_in_training_only():
    settings = config(task_type=None, target_modules=["first", "second"], lora_dropout=0.5, gate_noise_std=0.0)
    model = get_peft_model(TwoSites(), settings)
    x, ids = torch.randn(3, 4, 7), torch.tensor([0, 1, 2])
    model.train()
    assert not torch.equal(model(x, cluster_ids=ids), model(x, cluster_ids=ids))
    model.eval()
    assert torch.equal(model(x, cluster_ids=ids), model(x, cluster_ids=ids))
