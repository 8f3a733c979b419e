"""A LoRA of the original LLaVA code answers as its own arithmetic says, on a base of either layout."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.cli.main import main
from llava_mocle.conversion.llava_lora import convert_llava_lora
from llava_mocle.errors import CheckpointError
from llava_mocle.model import load_model
from tests.evaluation.tiny_pope import write_pope
from tests.model.checkpoints import logits_of, write_original
from tests.model.parts import HIDDEN

RANK, ALPHA = 4, 12
_WIDE = 64
SITES = {
    f"model.layers.{i}.{name}": shape
    for i in range(2)
    for name, shape in {
        **{f"self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in "qkvo"},
        "mlp.gate_proj": (_WIDE, HIDDEN),
        "mlp.up_proj": (_WIDE, HIDDEN),
        "mlp.down_proj": (HIDDEN, _WIDE),
    }.items()
}
LORA_CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05,
    "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "inference_mode": True,
    "base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "init_lora_weights": True,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip
CONFIG = {
    "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    "image_aspect_ratio": "pad",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    """The original names (without PEFT's prefix) -> tensors."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for site, (out, source) in SITES.items():
        found[f"{site}.lora_A.weight"] = torch.randn(RANK, source, generator=generator)
        found[f"{site}.lora_B.weight"] = 0.1 * torch.randn(out, RANK, generator=generator)
    for layer, shape in (("0", (HIDDEN, 24)), ("2", (HIDDEN, HIDDEN))):
        found[f"model.mm_projector.{layer}.weight"] = 0.3 * torch.randn(shape, generator=generator)
        found[f"model.mm_projector.{layer}.bias"] = 0.3 * torch.randn(shape[:1], generator=generator)
    return found


def write(folder, weights, *, file="adapter_model.bin", prefix="base_model.model.", inserted="", **changes):
    folder.mkdir()
    lora = {
        f"{prefix}{name.replace('.weight', f'{inserted}.weight')}": v for name, v in weights.items() if "lora_" in name
    }
    torch.save(lora, folder / file) if file.endswith(".bin") else save_file(lora, folder / file)
    torch.save({f"{prefix}{k}": v for k, v in weights.items() if "lora_" not in k}, folder / "non_lora_trainables.bin")
    lora_changes = {key: value for key, value in changes.items() if key in LORA_CONFIG or key.startswith("use_")}
    others = {key: value for key, value in changes.items() if key not in lora_changes}
    (folder / "adapter_config.json").write_text(json.dumps(LORA_CONFIG | lora_changes))
    (folder / "config.json").write_text(json.dumps(CONFIG | others))
    return folder


@torch.no_grad()
def folded(base, weights, scale=ALPHA / RANK):
    """The base with W + alpha / r B A, and the trained projector, written into it by hand."""
    model = LlavaForConditionalGeneration.from_pretrained(base).eval()
    for site in SITES:
        linear = model.get_submodule(site.replace("model.layers", "model.language_model.layers"))
        linear.weight += scale * weights[f"{site}.lora_B.weight"] @ weights[f"{site}.lora_A.weight"]
    projector = model.model.multi_modal_projector
    for layer, name in ((projector.linear_1, "0"), (projector.linear_2, "2")):
        layer.weight.copy_(weights[f"model.mm_projector.{name}.weight"])
        layer.bias.copy_(weights[f"model.mm_projector.{name}.bias"])
    return model


def expected_logits(base, weights, scale=ALPHA / RANK):
    model = folded(base, weights, scale)
    return logits_of(model, model.config.image_token_id)


FORMS = {
    "bin": {},
    "safetensors": {"file": "adapter_model.safetensors"},
    "an adapter's name inserted": {"inserted": ".default"},
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_original_arithmetic(tmp_path, llava_folder, weights, form):
    source = write(tmp_path / "lora", weights, **FORMS[form])
    convert_llava_lora(source, llava_folder, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    expected = expected_logits(llava_folder, weights)
    found = logits_of(loaded.model, loaded.image_token_id)
    # float32: folded into the weight on one side, added to the output on the other.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    base = logits_of(load_model(llava_folder).model, loaded.image_token_id)
    assert (base - expected).abs().max() > 0.1
    assert (loaded.kind, loaded.template, loaded.image_aspect_ratio) == ("adapter", "vicuna_v1", "pad")


def test_rank_stabilised_scaling_is_kept(tmp_path, llava_folder, weights):
    source = write(tmp_path / "lora", weights, use_rslora=True)
    convert_llava_lora(source, llava_folder, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    expected = expected_logits(llava_folder, weights, ALPHA / RANK**0.5)
    found = logits_of(loaded.model, loaded.image_token_id)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_on_a_base_of_the_original_layout(tmp_path, llava_folder, weights):
    clip = llava_folder.parent / "clip"
    original = write_original(tmp_path / "original", llava_folder, clip, with_tower=False, suffix=".bin")
    source = write(tmp_path / "lora", weights, image_aspect_ratio="square")
    lines = convert_llava_lora(source, original, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    expected = expected_logits(llava_folder, weights)
    found = logits_of(loaded.model, loaded.image_token_id)[..., : expected.shape[-1]]
    # The original folder has no row for <image>, whose logit is another.
    rows = [i for i in range(found.shape[-1]) if i < loaded.image_token_id]
    torch.testing.assert_close(found[..., rows], expected[..., rows], rtol=1e-5, atol=1e-4)
    assert loaded.image_aspect_ratio == "square"
    assert "lmsys/vicuna-7b-v1.5" in lines[1]


@pytest.fixture(scope="module")
def converted(tmp_path_factory, llava_folder, weights):
    """What `llava-mocle convert` makes of it; and a base folder into which the LoRA was folded by hand."""
    folder = tmp_path_factory.mktemp("converted")
    source = write(folder / "lora", weights)
    words = ["--llava-lora", str(source), "--base", str(llava_folder), "--output", str(folder / "out")]
    assert main(["convert", *words]) == 0
    shutil.copytree(llava_folder, folder / "folded")
    folded(llava_folder, weights).save_pretrained(folder / "folded")
    return folder / "out", folder / "folded"


def test_generate_takes_it(tmp_path, converted, capsys):
    picture = tmp_path / "red.png"
    Image.new("RGB", (20, 30), "red").save(picture)
    said = {}
    for image in ([], ["--image", str(picture)]):
        for folder in converted:
            words = ["--model", str(folder), "--prompt", "what is it?", "--max-new-tokens", "8", "--json", *image]
            assert main(["generate", *words, "--device", "cpu"]) == 0
            said[folder] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        lora, by_hand = (said[folder] for folder in converted)
        assert by_hand["text"]
        assert lora["text"] == by_hand["text"]
        assert lora["cluster_id"] is None


def test_eval_takes_it(tmp_path, converted, llava_folder):
    """Held-out rows, and a benchmark: the same answers and scores as of the base with the LoRA folded in."""
    write_pope(tmp_path)
    rows = [
        {
            "id": f"r{number}",
            "image": f"{number}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\nwhat is thing {number}?"},
                {"from": "gpt", "value": "yes"},
            ],
        }
        for number in range(1, 4)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    held_out = ["--rows", str(tmp_path / "rows.json"), "--image-folder", str(tmp_path / "pope" / "val2014")]
    tasks = ["--tasks", "pope", "--data-root", str(tmp_path)]
    found = {}
    for folder in (*converted, llava_folder):
        for kind, words in (("rows", held_out), ("pope", tasks)):
            output = tmp_path / "eval" / folder.name / kind
            how = ["--output", str(output), "--max-new-tokens", "6", "--device", "cpu"]
            assert main(["eval", "--model", str(folder), *words, *how]) == 0
            (file,) = (output / "answers").rglob("*.jsonl")
            answers = [json.loads(line)["text"] for line in file.read_text().splitlines()]
            results = json.loads((output / "results.json").read_text())
            found[folder.name, kind] = answers, results.get("domains", results.get("tasks"))
    for kind, count in (("rows", 3), ("pope", 7)):
        answers, scores = found["out", kind]
        assert len(answers) == count
        assert scores
        assert (answers, scores) == found["folded", kind]
        assert answers != found[llava_folder.name, kind][0]


REFUSED = {
    "another projector": ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
    "tiles": ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
    "trained biases": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "DoRA": ({"use_dora": True}, "use_dora is True"),
    "modules beside": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "another adapter": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_are_refused(tmp_path, llava_folder, weights, name):
    changes, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        convert_llava_lora(write(tmp_path / "lora", weights, **changes), llava_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_weight_is_accounted_for(tmp_path, llava_folder, weights):
    site = "model.layers.1.mlp.up_proj"
    extras = {
        "model.embed_tokens.weight": "not LoRA's|embed_tokens",
        "model.vision_resampler.x.lora_A.weight": "original LLaVA-1.5",
        "model.layers.2.mlp.up_proj.lora_A.weight": "does not fit",
        "model.mm_projector.4.weight": "mm_projector.4",
    }
    for index, (name, message) in enumerate(extras.items()):
        source = write(tmp_path / f"extra{index}", weights | {name: torch.zeros(2, 2)})
        with pytest.raises(CheckpointError, match=message):
            convert_llava_lora(source, llava_folder, tmp_path / "out")
    for index, gone in enumerate((f"{site}.lora_B.weight", "model.mm_projector.2.bias")):
        source = write(tmp_path / f"less{index}", {k: v for k, v in weights.items() if k != gone})
        with pytest.raises(CheckpointError, match="does not fit"):
            convert_llava_lora(source, llava_folder, tmp_path / "out")
    wide = weights | {f"{site}.lora_B.weight": torch.zeros(65, RANK)}
    with pytest.raises(CheckpointError, match=r"has shape \(65, 4\), and the base takes \(64, 4\)"):
        convert_llava_lora(write(tmp_path / "wide", wide), llava_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_incomplete_folders_are_named(tmp_path, llava_folder, weights):
    for name in ("adapter_model.bin", "non_lora_trainables.bin", "config.json", "adapter_config.json"):
        source = write(tmp_path / name, weights)
        (source / name).unlink()
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            convert_llava_lora(source, llava_folder, tmp_path / "out")


def test_the_loader_points_here(tmp_path, llava_folder, weights):
    for index, file in enumerate(("adapter_model.bin", "adapter_model.safetensors")):
        source = write(tmp_path / str(index), weights, file=file)
        with pytest.raises(CheckpointError, match=r"llava-mocle convert --llava-lora .* --base BASE --output DIR"):
            load_model(source, base=llava_folder)


def test_a_language_model_as_base_is_refused(tmp_path, llava_folder, weights):
    source = write(tmp_path / "lora", weights)
    with pytest.raises(CheckpointError, match="llava-mocle build"):
        convert_llava_lora(source, llava_folder.parent / "language", tmp_path / "out")
    shutil.rmtree(source)
    with pytest.raises(CheckpointError, match="no such folder"):
        convert_llava_lora(source, llava_folder, tmp_path / "out")
