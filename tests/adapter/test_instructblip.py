"""The paper's first base, whose `generate` passes its own forward by and calls that of the language model."""

from functools import partial

import pytest
import torch
from peft import get_peft_model
from transformers import (
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from llava_mocle.adapter import MocleConfig
from llava_mocle.errors import RoutingError

from .instructblip import inputs, rows, tiny_peft_instructblip, trained

IDS = torch.tensor([4, 0, 2])
BATCH = inputs()
END, PAD = 7, 1
NEW_TOKENS = 6
BEAMS = {"num_beams": 5, "do_sample": False, "repetition_penalty": 1.5, "eos_token_id": END, "pad_token_id": PAD}


@pytest.fixture(scope="module")
def model():
    return trained(tiny_peft_instructblip(gate_noise_std=0.0)).requires_grad_(False)


def generated(model, which=slice(None), ids=IDS, **settings):
    """The new tokens (rows, NEW_TOKENS) of some samples. Shorter answers are padded."""
    routed = {} if ids is None else {"cluster_ids": ids[which]}
    batch = rows(BATCH, which)
    sequences = model.generate(**batch, **routed, max_new_tokens=NEW_TOKENS, **settings)
    new = sequences[:, batch["input_ids"].shape[1] :]
    return torch.nn.functional.pad(new, (0, NEW_TOKENS - new.shape[1]), value=PAD)


def test_greedy_equals_a_loop_without_cache(model):
    batch = dict(BATCH)
    for _ in range(NEW_TOKENS):
        chosen = model(**batch, cluster_ids=IDS).logits[:, -1:].argmax(-1)
        batch["input_ids"] = torch.cat((batch["input_ids"], chosen), dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    assert torch.equal(generated(model, do_sample=False), batch["input_ids"][:, -NEW_TOKENS:])


def test_the_clusters_matter(model):
    answers = {tuple(generated(model, slice(0, 1), torch.tensor([c]))[0].tolist()) for c in range(5)}
    assert len(answers) > 1


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0])
def test_beams_of_mixed_clusters_equal_each_sample_alone_and_merged(model, length_penalty):
    together = generated(model, length_penalty=length_penalty, **BEAMS)
    for b, cluster in enumerate(IDS.tolist()):
        one = slice(b, b + 1)
        assert torch.equal(generated(model, one, length_penalty=length_penalty, **BEAMS)[0], together[b])
        merged = trained(tiny_peft_instructblip(gate_noise_std=0.0)).merge_and_unload(cluster=cluster)
        assert torch.equal(generated(merged, one, None, length_penalty=length_penalty, **BEAMS)[0], together[b])


def test_the_length_penalty_decides_something(model):
    """Else the test above could not tell the three apart."""
    answers = {str(generated(model, length_penalty=value, **BEAMS).tolist()) for value in (-1.0, 0.0, 1.0)}
    assert len(answers) > 1


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_beams_may_be_set_where_transformers_reads_them(model, options):
    base = model.get_base_model()
    language_model = base.language_model
    before = base.generation_config, language_model.generation_config
    expected = torch.cat([generated(model, slice(b, b + 1), do_sample=False, **options) for b in range(3)])
    greedy = generated(model, do_sample=False)
    assert not torch.equal(expected, greedy)
    assert torch.equal(generated(model, do_sample=False, **options), expected)
    assert torch.equal(generated(model, generation_config=GenerationConfig(do_sample=False, **options)), expected)
    try:
        language_model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, **options)
        assert torch.equal(generated(model), expected)
        assert torch.equal(generated(model, num_beams=1, num_return_sequences=1), greedy)
        with pytest.raises(RoutingError, match="2 ids but the batch has 3"):
            model.generate(**BATCH, cluster_ids=IDS[:2], max_new_tokens=2)
        language_model.generation_config = before[1]
        # The language model does not read it, so it must not loosen the check either.
        base.generation_config = GenerationConfig(do_sample=False, **options)
        assert torch.equal(generated(model), greedy)
    finally:
        base.generation_config, language_model.generation_config = before


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_number_of_ids_is_checked_also_without_input_ids(model, count):
    """Without `input_ids` the language model is asked to go on after the image."""
    batch = {name: BATCH[name] for name in ("pixel_values", "qformer_input_ids")}
    assert len(model.generate(**batch, cluster_ids=IDS, max_new_tokens=2)) == 3
    ids = torch.zeros(count, dtype=torch.long)
    with pytest.raises(RoutingError, match=f"{count} ids but the batch has 3"):
        model.generate(**batch, cluster_ids=ids, max_new_tokens=2, num_beams=2)


def test_the_language_model_called_by_itself(model):
    """Its forward takes ids of its own. transformers' `generate` knows no such input, and says so."""
    language_model = model.get_base_model().language_model
    prompt = BATCH["input_ids"][:, -5:]
    expected = language_model.model(input_ids=prompt, cluster_ids=IDS).last_hidden_state
    found = language_model(input_ids=prompt, cluster_ids=IDS, output_hidden_states=True)
    assert torch.equal(found.hidden_states[-1], expected)
    for call in (language_model, language_model.model, partial(language_model.generate, max_new_tokens=1)):
        with pytest.raises(RoutingError, match="cluster_ids is missing"):
            call(input_ids=prompt)
    with pytest.raises(ValueError, match="cluster_ids"):
        language_model.generate(input_ids=prompt, cluster_ids=IDS, max_new_tokens=1)


def gradients(checkpointing):
    model = trained(tiny_peft_instructblip(gate_noise_std=0.5)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(7)
    model(**BATCH, labels=BATCH["input_ids"], cluster_ids=IDS).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_changes_nothing():
    off, on = gradients(False), gradients(True)
    assert off.keys() == on.keys()
    assert off["base_model.model.query_tokens"].abs().sum() > 0
    for name, gradient in off.items():
        # The text half of the Q-Former's last layer leads nowhere.
        assert (gradient is None) == (on[name] is None), name
        assert gradient is None or (gradient - on[name]).abs().max() <= 1e-6, name


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"router": "none", "num_experts": 1, "universal_expert": False}, 4_194_304),
        ({"num_experts": 4, "universal_expert": False, "num_clusters": 64, "cluster_dim": 384}, 16_777_216),
        ({"num_experts": 4, "num_clusters": 64, "cluster_dim": 384}, 20_971_520),
    ],
    ids=["one LoRA", "4 experts", "4 + 1"],
)
def test_sizes_at_seven_billion(changes, values):
    """64 sites x (4096 x 8 + 8 x 4096) for each expert."""
    settings = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(),
        qformer_config=InstructBlipQFormerConfig(),
        text_config=LlamaConfig(vocab_size=32001),
    )
    with torch.device("meta"):
        base = InstructBlipForConditionalGeneration(settings)
        adapter = {"r": 8, "target_modules": ["q_proj", "v_proj"], "parameters_to_save": ["query_tokens"], **changes}
        model = get_peft_model(base, MocleConfig(task_type="CAUSAL_LM", **adapter))
    assert len(model.sites) == 64
    assert all(site.startswith("language_model.model.layers.") for site in model.sites)
    assert sum(p.numel() for name, p in model.named_parameters() if ".mocle_experts." in name) == values
    assert model.get_base_model().query_tokens.requires_grad
