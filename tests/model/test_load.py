import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model import build_llava, load_model, save_projector
from tests.model import parts
from tests.model.checkpoints import TARGETS, logits_of, lora_folder, randomise, write_extras


def test_base_folder(base_folder):
    loaded = load_model(base_folder)
    assert (loaded.kind, loaded.template, loaded.cluster_model) == ("base", "vicuna_v1", None)
    assert (loaded.image_tokens_per_image, loaded.image_aspect_ratio, loaded.model_max_length) == (4, "pad", 256)
    assert loaded.base_path == loaded.path == base_folder
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer.is_fast
    assert loaded.image_processor.crop_size["height"] == 28
    trainable = load_model(base_folder, trainable=True).model
    assert trainable.training
    assert all(p.requires_grad for p in trainable.parameters())


def test_mocle_checkpoint_gives_the_writers_logits_to_the_bit(mocle_folder, base_folder, cluster_model):
    folder, expected = mocle_folder
    loaded = load_model(folder)
    assert loaded.kind == "adapter"
    assert loaded.base_path == base_folder
    assert (loaded.template, loaded.image_aspect_ratio, loaded.model_max_length) == ("llama_2", "square", 99)
    assert loaded.recipe["version"] == "llama_2"
    assert loaded.cluster_model.fingerprint == cluster_model.fingerprint
    assert not any(p.requires_grad for p in loaded.model.parameters())
    ids = torch.tensor([0, 2, 1])
    actual = logits_of(loaded.model, loaded.image_token_id, cluster_ids=ids)
    assert torch.equal(actual, expected)
    assert not torch.allclose(actual, logits_of(loaded.model, loaded.image_token_id, cluster_ids=ids.flip(0)))
    plain = load_model(base_folder)
    assert not torch.allclose(actual, logits_of(plain.model, plain.image_token_id), atol=1e-2)


def test_template_argument_wins(mocle_folder, base_folder):
    assert load_model(mocle_folder[0], template="chat").template == "chat"
    assert load_model(base_folder, template="plain").template == "plain"


def test_stage_1_folder_and_an_adapter_on_it(tmp_path, base_folder):
    loaded = load_model(base_folder)
    randomise(loaded.model, lambda name: "multi_modal_projector" in name)
    expected = logits_of(loaded.model, loaded.image_token_id)
    stage1 = tmp_path / "stage1"
    save_projector(loaded.model, stage1, base_folder)
    write_extras(stage1, loaded, version="plain", model_max_length=77)
    again = load_model(stage1)
    # `plain` would leave the question out: the base's own template asks it.
    assert (again.kind, again.template, again.model_max_length) == ("stage1", "vicuna_v1", 77)
    assert load_model(stage1, template="plain").template == "plain"
    assert again.base_path == base_folder
    assert torch.equal(logits_of(again.model, again.image_token_id), expected)

    model = get_peft_model(again.model, LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4))
    model.peft_config["default"].base_model_name_or_path = str(stage1)
    model.save_pretrained(tmp_path / "lora")
    on_top = load_model(tmp_path / "lora")
    assert torch.equal(logits_of(on_top.model, on_top.image_token_id), expected)  # LoRA starts as the identity


def test_missing_base_is_named_and_can_be_passed(tmp_path, mocle_folder, base_folder):
    folder = tmp_path / "moved"
    shutil.copytree(mocle_folder[0], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    for name in ("/nowhere/base", "org/name-not-cached", None):
        config["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="base=") as error:
            load_model(folder)
        assert str(name) in str(error.value)
    loaded = load_model(folder, base=base_folder)
    actual = logits_of(loaded.model, loaded.image_token_id, cluster_ids=torch.tensor([0, 2, 1]))
    assert torch.equal(actual, mocle_folder[1])


def test_base_beside_the_checkpoint_is_found_by_a_relative_path(tmp_path, base_folder):
    expected = lora_folder(tmp_path / "run" / "lora", base_folder)
    shutil.copytree(base_folder, tmp_path / "run" / "base")
    path = tmp_path / "run" / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    loaded = load_model(tmp_path / "run" / "lora")
    assert torch.equal(logits_of(loaded.model, loaded.image_token_id), expected)


def test_folders_that_are_no_model_say_what_to_do(tmp_path, language_model, mocle_folder):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a model folder"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint-5"):
        load_model(mocle_folder[0].parent)
    with pytest.raises(CheckpointError, match="llava-mocle build"):
        load_model(language_model)
    (tmp_path / "config.json").write_text('{"model_type": "llava", ')
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava", "mm_vision_tower": "x"}')
    (tmp_path / "mm_projector.bin").touch()
    with pytest.raises(CheckpointError, match="stage-1 folder of the original"):
        load_model(tmp_path)


def test_damaged_base_folders_are_refused(tmp_path, base_folder):
    folder = tmp_path / "x"
    shutil.copytree(base_folder, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="x: cannot be loaded"):
        load_model(folder)
    weights.write_bytes(whole)
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "linear_2" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing, for example"):
        load_model(folder)
    torch.save(state, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(folder)


def test_processor_of_another_model_is_refused(tmp_path, base_folder):
    folder = tmp_path / "x"
    shutil.copytree(base_folder, folder)
    tokenizer = parts.make_tokenizer()
    tokenizer.add_tokens(["extra", "<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="image_token_index"):
        load_model(folder)
    shutil.rmtree(folder)
    shutil.copytree(base_folder, folder)
    for file in ("preprocessor_config.json", "processor_config.json"):
        (folder / file).write_text((folder / file).read_text().replace("28", "32"))
    with pytest.raises(CheckpointError, match="32 px high, but the vision tower takes 28"):
        load_model(folder)


def test_siglip_with_tied_embeddings_loads(tmp_path):
    language = parts.save_language_model(tmp_path / "tied", tie=True)
    folder = build_llava(language, parts.save_siglip(tmp_path / "siglip"), tmp_path / "base")
    loaded = load_model(folder)
    assert loaded.model.lm_head.weight is loaded.model.model.language_model.embed_tokens.weight
    assert logits_of(loaded.model, loaded.image_token_id).isfinite().all()


@pytest.mark.parametrize("options", [{"attn": "magic"}, {"dtype": "int3"}, {"attn": "flash_attention_2"}])
def test_bad_options(base_folder, options):
    with pytest.raises(ConfigError, match=next(iter(options.values()))):
        load_model(base_folder, **options)


@pytest.mark.parametrize("layout", ["published", "module"])
def test_published_llava_hf_layouts_load_to_the_same_weights(tmp_path, base_folder, llava, layout):
    """Published folders say `language_model.model.*` and `vision_tower.vision_model.*`; transformers maps them."""
    folder = tmp_path / "published"
    shutil.copytree(base_folder, folder)
    state = {name: value.contiguous() for name, value in llava.state_dict().items()}
    if layout == "published":
        prefixes = {
            "lm_head.": "language_model.lm_head.",
            "model.language_model.": "language_model.model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "model.vision_tower.": "vision_tower.vision_model.",
        }
        for new, old in prefixes.items():
            state = {(old + k.removeprefix(new) if k.startswith(new) else k): v for k, v in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(folder)
    assert loaded.kind == "base"
    expected = llava.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
