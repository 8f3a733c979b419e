import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llava_mocle.errors import CheckpointError
from llava_mocle.model import load_model, load_projector, save_projector
from llava_mocle.model.projector import get_projector


@pytest.fixture
def model(base_folder):
    return load_model(base_folder).model


def randomised(model):
    with torch.no_grad():
        for parameter in get_projector(model).parameters():
            parameter.normal_()
    return {name: value.clone() for name, value in get_projector(model).state_dict().items()}


def same(model, weights):
    state = get_projector(model).state_dict()
    return state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)


def test_round_trip_and_file_contents(tmp_path, model, base_folder):
    weights = randomised(model)
    save_projector(model, tmp_path, base_folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mm_projector.safetensors", "mm_projector_config.json"]
    config = json.loads((tmp_path / "mm_projector_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder)
    assert config["shapes"]["linear_1.weight"] == [32, 24]
    for path in (tmp_path, tmp_path / "mm_projector.safetensors"):
        other = load_model(base_folder).model
        assert not same(other, weights)
        load_projector(other, path)
        assert same(other, weights)


def test_a_colleague_may_read_it(tmp_path, model, base_folder, usual_umask):
    save_projector(model, tmp_path / "run", base_folder)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "run").iterdir()} == {0o644}


def test_gathered_state_dict_is_what_gets_written(tmp_path, model, base_folder):
    whole = {name: value + 1 for name, value in model.state_dict().items()}
    save_projector(model, tmp_path, base_folder, state_dict=whole)
    load_projector(model, tmp_path)
    marker = "multi_modal_projector."
    assert same(model, {n.split(marker)[1]: v for n, v in whole.items() if marker in n})


@pytest.mark.parametrize("prefix", ["model.mm_projector.", ""])
def test_original_mm_projector_bin(tmp_path, model, prefix):
    weights = randomised(model)
    names = {"linear_1": "0", "linear_2": "2"}
    original = {f"{prefix}{names[k.split('.')[0]]}.{k.split('.')[1]}": v.clone() for k, v in weights.items()}
    torch.save(original, tmp_path / "mm_projector.bin")
    randomised(model)
    load_projector(model, tmp_path / "mm_projector.bin")
    assert same(model, weights)


def test_the_trained_copy_inside_a_peft_model_is_meant(tmp_path, model, base_folder):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])
    adapted = get_peft_model(model, config)
    weights = randomised(adapted)
    save_projector(adapted, tmp_path, base_folder)
    plain = load_model(base_folder).model
    load_projector(plain, tmp_path)
    assert same(plain, weights)
    wrapper = adapted.base_model.model.model.multi_modal_projector
    assert not torch.equal(wrapper.original_module.linear_1.weight, weights["linear_1.weight"])


def test_a_projector_that_does_not_fit_changes_nothing(tmp_path, model):
    before = {name: value.clone() for name, value in get_projector(model).state_dict().items()}
    wrong = {name: torch.ones_like(value) for name, value in before.items()}
    wrong["linear_2.weight"] = torch.ones(32, 31)
    torch.save(wrong, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="not this model's projector"):
        load_projector(model, tmp_path)
    wrong.pop("linear_2.weight")
    torch.save(wrong, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="not this model's projector"):
        load_projector(model, tmp_path)
    (tmp_path / "mm_projector.bin").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_projector(model, tmp_path)
    with pytest.raises(CheckpointError, match="no projector there"):
        load_projector(model, tmp_path / "nowhere")
    assert same(model, before)


def test_a_model_without_projector_is_named():
    with pytest.raises(CheckpointError, match="Linear"):
        get_projector(torch.nn.Linear(2, 2))
