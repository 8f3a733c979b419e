"""Adapters over their life: several of them, switching, meta device, sizes, and files."""

import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from llava_mocle.adapter import MocleConfig, MocleLinear
from llava_mocle.errors import ConfigError, RoutingError

from .helpers import config, plain_lora, relative_error, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(3)
IDS = torch.tensor([4, 0, 2])


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_only_experts_gates_and_embedding_train():
    model = tiny_peft(modules_to_save=["lm_head"])
    for name in trainable(model):
        assert any(part in name for part in ("experts_A", "experts_B", "mocle_router", "modules_to_save")), name
    assert len([name for name in trainable(model) if "mocle_router" in name]) == 2
    assert model.sites == [f"model.layers.{i}.mlp.{name}" for i in range(2) for name in ("up_proj", "down_proj")]


def test_disable_adapter_gives_the_base_model():
    expected = tiny_llama()(input_ids=BATCH).logits
    model = tiny_peft()
    adapted = model(input_ids=BATCH, cluster_ids=IDS).logits
    before = trainable(model)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=BATCH).logits, expected)
        assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS).logits, expected)
        model.generate(input_ids=BATCH, max_new_tokens=2)
    assert trainable(model) == before
    assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS).logits, adapted)
    assert (adapted - expected).abs().max() > 1e-2


def test_several_adapters():
    model = tiny_peft()
    first = model(input_ids=BATCH, cluster_ids=IDS).logits
    torch.manual_seed(9)
    model.add_adapter("second", config(target_modules=["q_proj", "up_proj"], num_clusters=2, num_experts=3))
    model.eval()
    assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS).logits, first)
    assert not any(".second." in name for name in trainable(model))
    model.set_adapter("second")
    assert all(".second." in name for name in trainable(model))
    assert any("mocle_router.second" in name for name in trainable(model))
    assert model.sites[0] == "model.layers.0.self_attn.q_proj"
    second = model(input_ids=BATCH, cluster_ids=[0, 1, 1]).logits
    assert model.clean_gates("second").shape == (2, 4, 3)
    assert (second - first).abs().max() > 1e-2
    model.base_model.set_adapter(["default", "second"])
    both = model(input_ids=BATCH, cluster_ids=[0, 1, 1]).logits
    assert (both - second).abs().max() > 1e-2
    model.set_adapter("default")
    assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS).logits, first)
    model.delete_adapter("second")
    assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS).logits, first)
    assert not any("second" in name for name in model.state_dict())
    with pytest.raises(ConfigError, match="no adapter 'second'"):
        model.clean_gates("second")


def test_set_requires_grad_reaches_the_router():
    model = tiny_peft()
    model.set_requires_grad("default", False)
    assert trainable(model) == set()
    model.set_requires_grad("default", True)
    assert any("mocle_router" in name for name in trainable(model))


@pytest.mark.parametrize("changes", [{}, {"gate_mode": "released"}, {"universal_expert": False, "top_k": 2}])
@pytest.mark.parametrize("low_memory", [False, True])
def test_round_trip(tmp_path, changes, low_memory):
    model = tiny_peft(modules_to_save=["lm_head"], **changes)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(0.1)
    expected = model(input_ids=BATCH, cluster_ids=IDS).logits
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {"base_model.mocle_router.gate_weight", "base_model.mocle_router.cluster_embedding"} <= saved.keys()
    torch.manual_seed(123)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(loaded(input_ids=BATCH, cluster_ids=IDS).logits, expected)
    assert trainable(loaded) == set()
    loaded.load_adapter(tmp_path, "again", low_cpu_mem_usage=low_memory)
    loaded.set_adapter("again")
    assert torch.equal(loaded(input_ids=BATCH, cluster_ids=IDS).logits, expected)
    resumed = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert trainable(resumed) == trainable(model)


FRESH = """
    import sys, torch
    from peft import PeftModel
    import llava_mocle.adapter
    from tests.adapter.helpers import tiny_llama
    stored = torch.load(sys.argv[1] + "/batch.pt", weights_only=True)
    model = PeftModel.from_pretrained(tiny_llama(), sys.argv[1])
    found = model(input_ids=stored["input_ids"], cluster_ids=stored["cluster_ids"]).logits
    sys.exit(0 if torch.equal(found, stored["logits"]) else 3)
"""


def test_fresh_process_gives_the_same_bits(tmp_path):
    model = tiny_peft()
    logits = model(input_ids=BATCH, cluster_ids=IDS).logits.detach()
    model.save_pretrained(tmp_path)
    torch.save({"input_ids": BATCH, "cluster_ids": IDS, "logits": logits}, tmp_path / "batch.pt")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FRESH), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_saved_adapter_needs_no_centroids_file(tmp_path):
    from safetensors.torch import save_file

    centroids = torch.randn(6, 8)
    save_file({"centroids": centroids}, tmp_path / "centroids.safetensors")
    model = get_peft_model(tiny_llama(), config(centroids=tmp_path, num_clusters=None, cluster_dim=None))
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "centroids.safetensors").unlink()
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter", is_trainable=True)
    assert torch.equal(loaded.mocle_router["default"].cluster_embedding, centroids)


def test_gates_follow_their_sites_and_not_their_order(tmp_path):
    """Gates are stored by position, so the names are stored beside them."""
    model = tiny_peft()
    expected = model(input_ids=BATCH, cluster_ids=IDS).logits
    state = get_peft_model_state_dict(model)
    turned = config(sites=list(reversed(model.sites)))
    other = get_peft_model(tiny_llama(), turned).eval()
    other.load_state_dict(
        {
            **{name: value for name, value in model.state_dict().items() if "gate_weight" not in name},
            "base_model.mocle_router.default.gate_weight": state["base_model.mocle_router.gate_weight"].flip(0),
        }
    )
    assert torch.equal(other(input_ids=BATCH, cluster_ids=IDS).logits, expected)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="made for 4 sites and this model has 6"):
        PeftModel.from_pretrained(tiny_llama(num_hidden_layers=3), tmp_path)


VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
TABLE_5 = [
    ("LoRA", {"router": "none", "num_experts": 1, "universal_expert": False}, 4_194_304),
    ("4 experts", {"num_clusters": 64, "cluster_dim": 384, "universal_expert": False}, 16_777_216),
    ("4 experts + universal", {"num_clusters": 64, "cluster_dim": 384}, 20_971_520),
]


@pytest.mark.parametrize(("name", "changes", "expected"), TABLE_5, ids=[row[0] for row in TABLE_5])
@pytest.mark.parametrize("inside", [True, False], ids=["under meta", "base on meta"])
def test_expert_sizes_of_table_5(name, changes, expected, inside):
    """arXiv 2312.12379, table 5: 4.19M, 16.78M and 20.97M on Vicuna-7B, q_proj and v_proj, r=8."""
    settings = MocleConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=8, **changes)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**VICUNA_7B, vocab_size=32000))
        if inside:
            model = get_peft_model(model, settings)
    if not inside:
        model = get_peft_model(model, settings)
    experts = sum(p.numel() for n, p in model.named_parameters() if "experts_" in n)
    print(f"{name}: {experts:,} expert parameters")
    assert experts == expected
    assert all(p.is_meta for p in model.parameters())


def test_the_adapted_modules_are_mocle_linears():
    model = get_peft_model(tiny_llama(), plain_lora())
    layers = [module for module in model.modules() if isinstance(module, MocleLinear)]
    assert len(layers) == len(model.sites) == 4
    assert repr(layers[0]).startswith("mocle.MocleLinear(")
    assert model.get_model_status().enabled is True


# ------ one cluster merged into the weights

PAIR = token_ids(2)
ABLATIONS = {"mocle": {}, "released": {"gate_mode": "released"}, "top-2": {"universal_expert": False, "top_k": 2}}


def logits(model, cluster):
    return model(input_ids=PAIR, cluster_ids=torch.full((2,), cluster)).logits


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_merged_model_equals_every_cluster(changes):
    for cluster in range(5):
        model = tiny_peft(**changes)
        expected = logits(model, cluster)
        merged = model.merge_and_unload(cluster=cluster)
        assert type(merged).__name__ == "LlamaForCausalLM"
        assert not any("mocle" in name for name, _ in merged.named_modules())
        assert relative_error(merged(input_ids=PAIR).logits, expected) < 1e-5


def test_merge_needs_a_cluster_that_exists():
    model = tiny_peft()
    with pytest.raises(RoutingError, match="cluster=c"):
        model.merge_and_unload()
    with pytest.raises(RoutingError, match="clusters 0 to 4"):
        model.merge_and_unload(cluster=5)
    with pytest.raises(RoutingError, match="cluster=c"):
        model.merge_adapter()
    logits(model, 0)


def test_merge_and_unmerge():
    model = tiny_peft()
    expected, other = logits(model, 3), logits(model, 1)
    model.merge_adapter(cluster=3)
    assert relative_error(logits(model, 3), expected) < 1e-5
    assert relative_error(model(input_ids=PAIR).logits, expected) < 1e-5
    with pytest.raises(RoutingError, match=r"cluster 3 .* is merged"):
        logits(model, 1)
    with pytest.raises(RoutingError, match="unmerge_adapter"):
        model.merge_and_unload(cluster=1)
    model.unmerge_adapter()
    assert relative_error(logits(model, 1), other) < 1e-5
    model.merge_adapter(cluster=1, safe_merge=True)
    assert relative_error(logits(model, 1), other) < 1e-5


def test_safe_merge_refuses_weights_that_are_not_finite():
    model = tiny_peft()
    site = model.get_base_model().get_submodule(model.sites[0])
    before = site.base_layer.weight.clone()
    with torch.no_grad():
        site.mocle_experts["default"].experts_B.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(cluster=0, safe_merge=True)
    assert torch.equal(site.base_layer.weight, before)


def test_router_none_merges_without_a_cluster():
    model = get_peft_model(tiny_llama(), plain_lora(init_lora_weights=False)).eval()
    expected = model(input_ids=PAIR).logits
    assert relative_error(model.merge_and_unload()(input_ids=PAIR).logits, expected) < 1e-5


def test_unload_gives_the_base_model_back():
    base = tiny_llama()
    expected = base(input_ids=PAIR).logits
    model = tiny_peft()
    assert torch.equal(model.unload()(input_ids=PAIR).logits, expected)
