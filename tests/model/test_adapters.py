import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_mocle.errors import CheckpointError
from llava_mocle.model import load_model
from tests.clustering.encoders import FakeEncoder
from tests.model.checkpoints import INSTRUCTIONS, logits_of, lora_folder


def test_trainable_checkpoint_has_gradients_on_adapter_and_projector_only(mocle_folder):
    loaded = load_model(mocle_folder[0], trainable=True)
    assert loaded.model.training
    trainable = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert any("experts_A" in name for name in trainable)
    assert any("multi_modal_projector" in name for name in trainable)
    assert not any("original_module" in name or "vision_tower" in name for name in trainable)


def test_collapsed_cluster_loads_as_plain_lora(tmp_path, mocle_folder):
    from llava_mocle.adapter import collapse

    loaded = load_model(mocle_folder[0])
    expected = logits_of(loaded.model, loaded.image_token_id, cluster_ids=torch.tensor([1, 1, 1]))
    collapse(loaded.model, 1, str(tmp_path / "one"))
    one = load_model(tmp_path / "one", base=loaded.base_path)
    assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert one.cluster_model is None
    actual = logits_of(one.model, one.image_token_id)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_plain_lora_without_recipe_takes_what_the_base_says(tmp_path, base_folder):
    expected = lora_folder(tmp_path / "lora", base_folder)
    loaded = load_model(tmp_path / "lora")
    assert torch.equal(logits_of(loaded.model, loaded.image_token_id), expected)
    assert (loaded.template, loaded.kind, loaded.cluster_model) == ("vicuna_v1", "adapter", None)


def test_adapter_with_other_weights_than_it_says_is_refused(tmp_path, base_folder):
    lora_folder(tmp_path / "lora", base_folder)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    whole = load_file(file)
    gone = sorted(whole)[0]
    save_file({k: v for k, v in whole.items() if k != gone}, file)
    with pytest.raises(CheckpointError, match="missing from it"):
        load_model(tmp_path / "lora")
    save_file(whole | {gone.replace("layers.0", "layers.9"): whole[gone].clone()}, file)
    with pytest.raises(CheckpointError, match="unknown to the model"):
        load_model(tmp_path / "lora")
    save_file(whole | {gone: whole[gone][:1].clone()}, file)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(tmp_path / "lora")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="lora"):
        load_model(tmp_path / "lora")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: no such file"):
        load_model(tmp_path / "lora")
    (tmp_path / "lora" / "non_lora_trainables.bin").touch()
    with pytest.raises(CheckpointError, match=r"llava-mocle convert --llava-lora"):
        load_model(tmp_path / "lora")


def test_mocle_checkpoint_without_or_with_a_foreign_cluster_model_is_refused(tmp_path, mocle_folder):
    from llava_mocle.clustering import ClusterModel

    folder = tmp_path / "x"
    shutil.copytree(mocle_folder[0], folder)
    shutil.rmtree(folder / "clusters")
    with pytest.raises(CheckpointError, match=r"clusters: no such folder.*llava-mocle cluster"):
        load_model(folder)
    ClusterModel.fit(INSTRUCTIONS, 2, encoder=FakeEncoder(), progress=False).save(folder / "clusters")
    with pytest.raises(CheckpointError, match="holds 2 clusters, but the adapter was trained with 3"):
        load_model(folder)
