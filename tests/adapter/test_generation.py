import pytest
import torch
from peft import get_peft_model
from transformers import GenerationConfig

from llava_mocle.errors import RoutingError

from .helpers import IMAGE_TOKEN, IMAGE_TOKENS, config, tiny_llava, tiny_peft, token_ids

PROMPT = token_ids(3)
MASK = torch.ones_like(PROMPT)
IDS = torch.tensor([4, 0, 2])
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams, two returned": {"num_beams": 3, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "beams, no cache": {"num_beams": 2, "use_cache": False},
}


@pytest.fixture(scope="module")
def model():
    return tiny_peft()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_mixed_clusters_equal_each_sample_alone(model, way):
    settings = {"max_new_tokens": 8, "do_sample": False, **way}
    together = model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=IDS, **settings)
    returned = way.get("num_return_sequences", 1)
    for b in range(3):
        alone = model.generate(
            input_ids=PROMPT[b : b + 1], attention_mask=MASK[b : b + 1], cluster_ids=IDS[b : b + 1], **settings
        )
        assert torch.equal(together[b * returned : (b + 1) * returned], alone)


def test_the_clusters_matter(model):
    settings = {"max_new_tokens": 8, "do_sample": False}
    outputs = {
        tuple(model.generate(input_ids=PROMPT[:1], attention_mask=MASK[:1], cluster_ids=[c], **settings)[0].tolist())
        for c in range(5)
    }
    assert len(outputs) > 1


@pytest.mark.parametrize("through_config", [False, True])
def test_sampled_sequences_keep_their_samples_cluster(model, through_config):
    """The scores of every returned sequence equal a forward of that sequence under its own sample's cluster."""
    options = {"max_new_tokens": 4, "do_sample": True, "num_return_sequences": 3, "output_logits": True}
    options["return_dict_in_generate"] = True
    if through_config:
        options = {"generation_config": GenerationConfig(**options, pad_token_id=0)}
    torch.manual_seed(0)
    output = model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=IDS, **options)
    again = model(input_ids=output.sequences, cluster_ids=IDS.repeat_interleave(3)).logits
    for step, logits in enumerate(output.logits):
        assert (logits - again[:, PROMPT.shape[1] - 1 + step]).abs().max() < 1e-4


def test_noise_is_drawn_once_per_generate_call():
    """In training mode the routing of the prompt stays for every token, instead of being drawn anew."""
    model = tiny_peft(gate_noise_std=5.0).train()
    seen = []
    site = model.get_base_model().get_submodule(model.sites[0]).mocle_experts["default"]
    handle = site.register_forward_pre_hook(lambda _, args: seen.append(args[1].slots[:, 0].tolist()))
    model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=IDS, max_new_tokens=6)
    handle.remove()
    assert len(seen) == 6
    assert all(step == seen[0] for step in seen)


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_only_generate_repeats_ids_and_only_exactly(model, count):
    ids = torch.zeros(count, dtype=torch.long)
    with pytest.raises(RoutingError, match=f"{count} ids but the batch has 3"):
        model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=ids, num_beams=3, max_new_tokens=2)


def test_a_batch_of_another_size_inside_generate_is_refused(model, monkeypatch):
    monkeypatch.setattr("llava_mocle.adapter.generation.expansion", lambda *_: 1)
    with pytest.raises(RoutingError, match="batch of 9 rows, but 3 routing ids"):
        model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=IDS, num_beams=3, max_new_tokens=2)
    with pytest.raises(RoutingError):
        model(input_ids=PROMPT)


def test_generate_leaves_no_routing_behind(model):
    model(input_ids=PROMPT, cluster_ids=IDS)
    assert model.last_routing() is not None
    model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=IDS, max_new_tokens=2)
    with pytest.raises(RoutingError, match="missing"):
        model(input_ids=PROMPT)
    assert model.last_routing() is None


@pytest.fixture(scope="module")
def llava():
    torch.manual_seed(1)
    settings = config(
        target_modules=r".*language_model.*\.(up_proj|down_proj)", modules_to_save=["multi_modal_projector"]
    )
    return get_peft_model(tiny_llava(), settings).eval()


@pytest.mark.parametrize("way", [{}, {"num_beams": 2, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_llava(llava, way):
    text = token_ids(3, 4)
    prompt = torch.cat((torch.full((3, IMAGE_TOKENS), IMAGE_TOKEN), text), dim=1)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    settings = {"max_new_tokens": 6, "do_sample": False, **way}
    returned = way.get("num_return_sequences", 1)
    together = llava.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=pixels, cluster_ids=IDS, **settings
    )
    for b in range(3):
        one = slice(b, b + 1)
        alone = llava.generate(
            input_ids=prompt[one],
            attention_mask=torch.ones_like(prompt[one]),
            pixel_values=pixels[one],
            cluster_ids=IDS[one],
            **settings,
        )
        assert torch.equal(together[b * returned : (b + 1) * returned], alone)


def test_llava_trains_projector_experts_and_gates(llava):
    prompt = torch.cat((torch.full((3, IMAGE_TOKENS), IMAGE_TOKEN), token_ids(3, 4)), dim=1)
    labels = prompt.masked_fill(prompt == IMAGE_TOKEN, -100)
    llava.zero_grad()
    llava(input_ids=prompt, pixel_values=torch.randn(3, 3, 16, 16), labels=labels, cluster_ids=IDS).loss.backward()
    kinds = {"experts_A": 0.0, "experts_B": 0.0, "gate_weight": 0.0, "cluster_embedding": 0.0, "linear_1.weight": 0.0}
    for name, parameter in llava.named_parameters():
        if parameter.requires_grad:
            for kind in kinds:
                kinds[kind] += parameter.grad.abs().sum().item() if name.endswith(kind) else 0.0
        else:
            assert parameter.grad is None
    assert all(value > 0 for value in kinds.values()), kinds
