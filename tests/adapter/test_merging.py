import pytest
import torch

from llava_mocle.errors import RoutingError

from .helpers import plain_lora, relative_error, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(2)
ABLATIONS = {"mocle": {}, "released": {"gate_mode": "released"}, "top-2": {"universal_expert": False, "top_k": 2}}


def logits(model, cluster):
    return model(input_ids=BATCH, cluster_ids=torch.full((2,), cluster)).logits


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_merged_model_equals_every_cluster(changes):
    for cluster in range(5):
        model = tiny_peft(**changes)
        expected = logits(model, cluster)
        merged = model.merge_and_unload(cluster=cluster)
        assert type(merged).__name__ == "LlamaForCausalLM"
        assert not any("mocle" in name for name, _ in merged.named_modules())
        assert relative_error(merged(input_ids=BATCH).logits, expected) < 1e-5


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
    assert relative_error(model(input_ids=BATCH).logits, expected) < 1e-5
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
    from peft import get_peft_model

    model = get_peft_model(tiny_llama(), plain_lora(init_lora_weights=False)).eval()
    expected = model(input_ids=BATCH).logits
    assert relative_error(model.merge_and_unload()(input_ids=BATCH).logits, expected) < 1e-5


def test_unload_gives_the_base_model_back():
    base = tiny_llama()
    expected = base(input_ids=BATCH).logits
    model = tiny_peft()
    assert torch.equal(model.unload()(input_ids=BATCH).logits, expected)
