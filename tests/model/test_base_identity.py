"""A base is known by its content: not by its place, its files or its dtype in memory, but by its frozen weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.adapter import MocleConfig, collapse
from llava_mocle.adapter.config import BASE_RECORD
from llava_mocle.errors import CheckpointError
from llava_mocle.model import build_llava, load_model
from llava_mocle.model.base_identity import difference, identify, read_identity
from llava_mocle.model.projector import save_projector
from tests.model import parts
from tests.model.checkpoints import TARGETS, write_original


def changed(folder: Path, target: Path, change) -> Path:
    """A copy of a base whose tensors `change` has been at."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def reconfigured(folder: Path, target: Path, **fields) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["text_config"] |= fields
    (target / "config.json").write_text(json.dumps(config))
    return target


def weight(weights: dict, part: str) -> torch.Tensor:
    return next(value for name, value in sorted(weights.items()) if part in name)


def test_a_copy_is_the_same(base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").touch()
    assert difference(identify(base_folder), identify(tmp_path / "copy")) is None


def test_other_files_of_the_same_weights(base_folder, tmp_path):
    LlavaForConditionalGeneration.from_pretrained(base_folder).save_pretrained(
        tmp_path / "parts", max_shard_size="50KB"
    )
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert difference(identify(base_folder), identify(tmp_path / "parts")) is None
    # What lies beside the files of the index does not count.
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "parts" / "other.safetensors")
    assert difference(identify(base_folder), identify(tmp_path / "parts")) is None


def test_what_is_trained_or_runs_it_does_not_count(base_folder, tmp_path):
    def train(weights):
        weight(weights, "multi_modal_projector.linear_1").add_(1)

    assert difference(identify(base_folder), identify(changed(base_folder, tmp_path / "a", train))) is None
    free = {"use_cache": False, "dtype": "bfloat16", "_name_or_path": "x", "transformers_version": "9"}
    assert difference(identify(base_folder), identify(reconfigured(base_folder, tmp_path / "b", **free))) is None
    # A default that one writer leaves out.
    plain = {"attention_dropout": 0.0, "hidden_act": "silu"}
    assert difference(identify(base_folder), identify(reconfigured(base_folder, tmp_path / "c", **plain))) is None


@pytest.mark.parametrize(
    "part", ["embed_tokens", "layers.1.self_attn.k_proj", "vision_tower", "lm_head", "norm.weight"]
)
def test_other_weights_of_the_same_shape(base_folder, tmp_path, part):
    def nudge(weights):
        weight(weights, part).flatten()[-1:].add_(1e-3)

    said = difference(identify(base_folder), identify(changed(base_folder, tmp_path / "other", nudge)))
    assert said.startswith("other weights in ")
    assert part in said


def test_a_large_tensor_is_sampled_from_end_to_end(base_folder, tmp_path):
    """8 MB of a tensor, of which 32 KB are read: a change of all of it, or of its ends, is seen."""
    shutil.copytree(base_folder, tmp_path / "a")

    def identity(values):
        save_file({"language_model.model.embed_tokens.weight": values}, tmp_path / "a" / "model.safetensors")
        return identify(tmp_path / "a")

    before = identity(torch.zeros(2048, 1024))
    assert difference(before, identity(torch.full((2048, 1024), 1e-9)))
    for place in (0, -1):
        values = torch.zeros(2048, 1024)
        values.view(-1)[place] = 1
        assert difference(before, identity(values))


def test_shapes_names_and_configuration_are_named(base_folder, tmp_path):
    before = identify(base_folder)

    def cut(weights):
        name = next(name for name in weights if "embed_tokens" in name)
        weights[name] = weights[name][:-1].clone()

    said = difference(before, identify(changed(base_folder, tmp_path / "a", cut)))
    assert said.startswith(
        "other shapes or dtypes: language_model.embed_tokens.weight (F32 320x32 then, F32 319x32 now)"
    )

    def drop(weights):
        del weights[next(name for name in weights if "layers.1.mlp.up_proj" in name)]

    assert difference(before, identify(changed(base_folder, tmp_path / "b", drop))) == (
        "it lacks language_model.layers.1.mlp.up_proj.weight"
    )
    said = difference(before, identify(reconfigured(base_folder, tmp_path / "c", rms_norm_eps=0.5)))
    assert said == "config.json differs in text_config.rms_norm_eps 1e-06 then, 0.5 now"


def test_an_original_folder_and_its_tower(base_folder, clip_tower, tmp_path):
    """As .bin or .safetensors, with the tower inside or beside it, the frozen weights are the same."""
    beside = write_original(tmp_path / "a", base_folder, clip_tower, with_tower=False, suffix=".bin")
    inside = write_original(tmp_path / "b", base_folder, clip_tower, with_tower=True, suffix=".safetensors")
    before = identify(beside)
    assert difference(before, identify(inside)) is None
    assert not any("projector" in name or "inv_freq" in name for name in before.tensors)
    # A full CLIP has the same tower; another tower is another base, wherever its path comes from.
    assert difference(before, identify(beside, parts.save_clip(tmp_path / "moved"))) is None
    other = tmp_path / "other"
    shutil.copytree(clip_tower, other)
    weights = load_file(other / "model.safetensors")
    next(iter(weights.values())).flatten()[0] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert difference(before, identify(beside, other)).startswith("other weights in vision_tower.")


def test_the_language_model_of_an_original_folder_has_the_names_of_transformers(base_folder, clip_tower, tmp_path):
    original = identify(write_original(tmp_path / "a", base_folder, clip_tower, with_tower=True, suffix=".bin"))
    assert set(original.tensors) == set(identify(base_folder).tensors)


def test_a_tower_with_its_text_half(tmp_path, base_folder):
    full, half = parts.save_clip(tmp_path / "full", full=True), tmp_path / "half"
    from transformers import CLIPModel, CLIPVisionModel

    tower = CLIPVisionModel(CLIPModel.from_pretrained(full).config.vision_config)
    weights = {name: value for name, value in load_file(full / "model.safetensors").items() if "vision_model." in name}
    tower.save_pretrained(half)
    names = load_file(half / "model.safetensors")
    save_file(
        {name: weights[name if name in weights else f"vision_model.{name}"] for name in names},
        half / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    folder = write_original(tmp_path / "a", base_folder, full, with_tower=False, suffix=".bin")
    assert difference(identify(folder, full), identify(folder, half)) is None


def test_damage_is_an_error(base_folder, tmp_path):
    shutil.copytree(base_folder, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as weights"):
        identify(tmp_path / "a")


@pytest.fixture
def adapter(base_folder, tmp_path):
    """An adapter with the record of its base, written by PEFT."""
    loaded = load_model(base_folder)
    config = MocleConfig(
        task_type="CAUSAL_LM", target_modules=TARGETS, r=2, num_clusters=2, cluster_dim=4, router="dataset",
        universal_expert=False,
    )  # fmt: skip
    config.base_record = identify(base_folder).to_json()
    get_peft_model(loaded.model, config).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def other(base_folder, tmp_path):
    def nudge(weights):
        for value in weights.values():
            value.add_(0.01)

    return changed(base_folder, tmp_path / "other", nudge)


def test_another_base_is_refused(adapter, base_folder, other, caplog):
    assert load_model(adapter).kind == "adapter"
    with pytest.raises(CheckpointError) as caught:
        load_model(adapter, base=other)
    said = str(caught.value)
    assert said.startswith(f"{adapter}: was trained on another base than {other}: other weights in ")
    assert f"Its base was in {base_folder}" in said
    assert "--allow-other-base" in said
    assert not caplog.text
    assert load_model(adapter, base=other, allow_other_base=True).base_path == other
    assert "was trained on another base than" in caplog.text


def test_the_check_comes_before_the_weights(adapter, other, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("llava_mocle.model.load._load_whole", load)
    with pytest.raises(CheckpointError, match="another base"):
        load_model(adapter, base=other)


def test_a_relative_name_that_stands_for_another_folder(adapter, base_folder, other, tmp_path, monkeypatch):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "base"}))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "base").symlink_to(other)
    shutil.copytree(base_folder, adapter / "base")
    monkeypatch.chdir(tmp_path / "first")
    with pytest.raises(CheckpointError, match="was trained on another base"):
        load_model(adapter)
    monkeypatch.chdir(tmp_path)
    assert load_model(adapter).base_path == adapter / "base"


def test_any_dtype_of_the_same_folder_is_the_same_base(adapter):
    assert load_model(adapter, dtype="bfloat16").model.dtype == torch.bfloat16


def test_without_a_record_nothing_is_compared(adapter, other, caplog):
    (adapter / BASE_RECORD).unlink()
    assert load_model(adapter, base=other).base_path == other
    assert not caplog.text


def test_a_damaged_record(adapter):
    (adapter / BASE_RECORD).write_text('{"config": 3}')
    with pytest.raises(CheckpointError, match=rf"{BASE_RECORD}: expected the fields config and tensors"):
        load_model(adapter)


def test_an_exported_cluster_knows_its_base(adapter, base_folder, other, tmp_path):
    """Also where PEFT alone has loaded the adapter."""
    record = (adapter / BASE_RECORD).read_text()
    exported = collapse(load_model(adapter).model, 1, tmp_path / "exported")
    by_peft = PeftModel.from_pretrained(load_model(base_folder).model, adapter)
    assert (collapse(by_peft, 1, tmp_path / "by peft") / BASE_RECORD).read_text() == record
    by_peft.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / BASE_RECORD).read_text() == record
    assert (exported / BASE_RECORD).read_text() == record
    assert load_model(exported).kind == "adapter"
    with pytest.raises(CheckpointError, match="was trained on another base"):
        load_model(exported, base=other)


def test_an_adapter_on_a_stage_1_folder(adapter, base_folder, other, tmp_path):
    """It is the base below that counts, for both."""
    stage_1 = tmp_path / "stage1"
    save_projector(load_model(base_folder).model, stage_1, base_folder)
    shutil.copy(adapter / BASE_RECORD, stage_1)
    assert load_model(adapter, base=stage_1).base_path == base_folder
    config = json.loads((stage_1 / "mm_projector_config.json").read_text())
    (stage_1 / "mm_projector_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(CheckpointError, match=rf"^{stage_1}: was trained on another base"):
        load_model(stage_1)
    with pytest.raises(CheckpointError, match=rf"^{adapter}: was trained on another base than {other}"):
        load_model(adapter, base=stage_1)


def test_a_record_says_the_same_when_it_is_read(base_folder, tmp_path):
    identity = identify(base_folder)
    (tmp_path / BASE_RECORD).write_text(identity.to_json())
    assert read_identity(tmp_path) == identity
    assert read_identity(base_folder) is None


def test_a_base_of_another_build(base_folder, tmp_path, clip_tower):
    """The same parts give the same base; another language model does not."""
    llama = parts.save_language_model(tmp_path / "llama")
    again = build_llava(llama, clip_tower, tmp_path / "again", seed=5)
    assert difference(identify(base_folder), identify(again)) is None
