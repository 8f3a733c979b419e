import json
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model import build_llava, image_tokens_per_image, load_model
from tests.model import parts


def load_plain(folder):
    """As someone without this package would (a grid tower aside): nothing but transformers."""
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def logits_of(model, tokens_an_image, image_size=parts.IMAGE_SIZE):
    config = model.config
    ids = torch.tensor([[5, *[config.image_token_id] * tokens_an_image, 6, 7]])
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits


def test_clip_base_folder_holds_the_parts_unchanged(base_folder, language_model, clip_tower):
    model = load_plain(base_folder)
    config = model.config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.image_seq_length == image_tokens_per_image(config) == 4
    language = LlamaForCausalLM.from_pretrained(language_model)
    old = language.config.vocab_size
    for name, value in language.state_dict().items():
        name = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
        assert torch.equal(model.state_dict()[name][: len(value)], value), name
    tower = CLIPVisionModel.from_pretrained(clip_tower)
    for name, value in tower.state_dict().items():
        assert torch.equal(model.state_dict()[f"model.vision_tower.{name}"], value), name
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer.weight.shape[0] % 64 == 0
        assert config.image_token_id == old < layer.weight.shape[0]
        torch.testing.assert_close(layer.weight[old:], layer.weight[:old].mean(0).expand_as(layer.weight[old:]))
    projector = model.model.multi_modal_projector
    assert projector.linear_1.weight.shape == (parts.HIDDEN, 24)
    assert logits_of(model, 4).shape[-1] == config.text_config.vocab_size


def test_projector_comes_from_the_seed_alone(tmp_path, base_folder, language_model, clip_tower):
    def projector(folder):
        return load_plain(folder).model.multi_modal_projector.linear_1.weight

    torch.manual_seed(77)
    again = build_llava(language_model, clip_tower, tmp_path / "again")
    other = build_llava(language_model, clip_tower, tmp_path / "other", seed=1)
    assert torch.equal(projector(again), projector(base_folder))
    assert not torch.equal(projector(other), projector(base_folder))
    bound = 24**-0.5
    assert 0.9 * bound < projector(again).abs().max() <= bound  # nn.Linear's initialisation


def test_tokenizer_has_one_image_token_and_pads(base_folder):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    config = json.loads((base_folder / "config.json").read_text())
    assert tokenizer("a<image>b").input_ids.count(config["image_token_index"]) == 1
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.model_max_length == 256  # the model's positions, fewer than the tokenizer's 512
    assert json.loads((base_folder / "llava_mocle.json").read_text()) == {"template": "vicuna_v1"}


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_llava_hf_processor_counts_image_tokens_as_the_model_does(tmp_path, language_model, clip_tower, strategy):
    folder = build_llava(language_model, clip_tower, tmp_path / "x", vision_feature_select_strategy=strategy)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = load_plain(folder)
    image = torch.zeros(3, 40, 60, dtype=torch.uint8).numpy()
    inputs = processor(images=image, text="USER: <image>\nwhat? ASSISTANT:", return_tensors="pt")
    expected = image_tokens_per_image(model.config)
    assert expected == {"default": 4, "full": 5}[strategy]
    assert (inputs.input_ids == model.config.image_token_id).sum() == expected
    assert model(**inputs).logits.isfinite().all()


def test_full_clip_folder_gives_the_same_model_as_its_vision_half(tmp_path, language_model):
    from transformers import CLIPModel

    full = parts.save_clip(tmp_path / "full", full=True)
    CLIPModel.from_pretrained(full).vision_model.save_pretrained(tmp_path / "half")
    a = load_plain(build_llava(language_model, full, tmp_path / "a"))
    b = load_plain(build_llava(language_model, tmp_path / "half", tmp_path / "b"))
    assert torch.equal(logits_of(a, 4), logits_of(b, 4))


def test_siglip_keeps_every_patch(tmp_path, language_model):
    tower = parts.save_siglip(tmp_path / "siglip")
    folder = build_llava(language_model, tower, tmp_path / "x")
    model = load_plain(folder)
    assert model.config.vision_feature_select_strategy == "full"
    assert image_tokens_per_image(model.config) == 4
    assert logits_of(model, 4).isfinite().all()
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(ConfigError, match="has none"):
        build_llava(language_model, tower, tmp_path / "y", vision_feature_select_strategy="default")
    assert not (tmp_path / "y").exists()


def test_grid_tower_reloads_to_the_bit(tmp_path, language_model):
    tower = parts.make_grid(feature_cache_size=5)
    tower.save_pretrained(tmp_path / "grid")
    folder = build_llava(language_model, tmp_path / "grid", tmp_path / "x", template="chat")
    loaded = load_model(folder)
    assert loaded.image_tokens_per_image == 4
    assert loaded.template == "chat"
    assert loaded.model.model.vision_tower.feature_cache_size == 5
    for name, value in tower.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[f"model.vision_tower.{name}"], value), name
    first = logits_of(loaded.model, 4, 64)
    assert torch.equal(logits_of(loaded.model, 4, 64), first)
    assert torch.equal(logits_of(load_plain(folder), 4, 64), first)
    assert list(loaded.image_processor.image_mean) == [0.5, 0.5, 0.5]


def test_tied_embeddings_stay_tied(tmp_path, clip_tower):
    language = parts.save_language_model(tmp_path / "tied", tie=True)
    folder = build_llava(language, clip_tower, tmp_path / "x")
    model = load_plain(folder)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.config.text_config.tie_word_embeddings


def test_dtype_is_the_language_models_or_the_one_asked_for(tmp_path, language_model, clip_tower):
    folder = build_llava(language_model, clip_tower, tmp_path / "x", dtype="bf16")
    assert {p.dtype for p in load_model(folder).model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(folder, dtype="float32").model.parameters()} == {torch.float32}


def test_template_is_read_from_the_chat_template(tmp_path, clip_tower):
    chat = parts.save_language_model(tmp_path / "chat", chat_template="{{ messages }}<|im_start|>")
    build_llava(chat, clip_tower, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "llava_mocle.json").read_text())["template"] == "chat"
    vicuna = parts.save_language_model(tmp_path / "vicuna", chat_template="USER: {{ messages }} ASSISTANT:")
    build_llava(vicuna, clip_tower, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "llava_mocle.json").read_text())["template"] == "vicuna_v1"


def test_an_existing_folder_is_never_overwritten(base_folder, language_model, clip_tower):
    before = sorted(p.name for p in base_folder.iterdir())
    with pytest.raises(CheckpointError, match="exists already"):
        build_llava(language_model, clip_tower, base_folder)
    assert sorted(p.name for p in base_folder.iterdir()) == before


def test_a_failed_build_leaves_nothing(tmp_path, language_model, clip_tower, monkeypatch):
    monkeypatch.setattr("llava_mocle.model.build.write_processor", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_llava(language_model, clip_tower, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_parts_of_the_wrong_kind_are_named(tmp_path, language_model, clip_tower):
    cases = [
        ((tmp_path / "nowhere", clip_tower), {}, "nowhere: no such folder"),
        ((language_model, language_model), {}, "not a vision tower"),
        ((clip_tower, clip_tower), {}, "no tokenizer"),
        ((language_model, clip_tower), {"vision_feature_layer": -9}, "vision_feature_layer is -9"),
        ((language_model, clip_tower), {"vision_feature_select_strategy": "patch"}, "strategy is 'patch'"),
        ((language_model, clip_tower), {"dtype": "int4"}, "dtype is 'int4'"),
        ((language_model, clip_tower), {"image_size": 336}, "takes 28 px"),
    ]
    for folders, options, message in cases:
        with pytest.raises((CheckpointError, ConfigError), match=message):
            build_llava(*folders, tmp_path / "x", **options)
        assert not (tmp_path / "x").exists()


def test_damaged_language_model_is_refused(tmp_path, language_model, clip_tower):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(language_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        build_llava(broken, clip_tower, tmp_path / "x")


def test_command_line(tmp_path, language_model, clip_tower, capsys):
    from llava_mocle.cli.main import main

    arguments = ["build", "--language-model", str(language_model), "--vision-tower", str(clip_tower)]
    assert main([*arguments, "--output", str(tmp_path / "x"), "--template", "plain"]) == 0
    assert "4 tokens an image, template plain" in capsys.readouterr().out
    assert json.loads((tmp_path / "x" / "llava_mocle.json").read_text()) == {"template": "plain"}
    assert main([*arguments, "--output", str(tmp_path / "x")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path / "y"), "--template", "nope"]) == 2


def test_help_imports_nothing_heavy():
    code = "import sys, llava_mocle.cli.build; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
