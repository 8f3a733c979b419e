"""Parameters of the base model that are trained in place: over the adapter's life, in files, and through plain PEFT."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from llava_mocle import collapse
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.training.checkpoints.engine_state import saved_state

from .helpers import config, plain_lora, relative_error
from .instructblip import MODULES, PARAMETERS, TARGETS, inputs, tiny_instructblip, tiny_peft_instructblip, trained

IDS = torch.tensor([4, 0, 2])
KEY = "base_model.model.query_tokens"
WEIGHTS = "adapter_model.safetensors"


def queries(model):
    base = model.base_model.model if isinstance(model, PeftModel) else model
    return base.query_tokens


def logits(model, **ids):
    """Of the frozen model: torch's linear takes another kernel for some inputs where its weight is trained."""
    model.requires_grad_(False)
    with torch.no_grad():
        return model(**inputs(), **ids).logits


def second(**changes):
    return config(target_modules=TARGETS, **changes)


def test_they_train_when_the_adapter_trains():
    model = tiny_peft_instructblip()
    assert queries(model).requires_grad
    batch = inputs()
    model.train()(**batch, labels=batch["input_ids"], cluster_ids=IDS).loss.backward()
    assert queries(model).grad.abs().sum() > 0
    assert not model.get_base_model().vision_model.embeddings.class_embedding.requires_grad
    with model.disable_adapter():
        assert not queries(model).requires_grad
    assert queries(model).requires_grad
    model.set_requires_grad("default", False)
    assert not queries(model).requires_grad
    assert not queries(tiny_peft_instructblip(inference_mode=True)).requires_grad


def test_disabling_deleting_and_unloading_leave_them_as_trained():
    base, model = tiny_instructblip(), trained(tiny_peft_instructblip())
    values = queries(model).detach().clone()
    with torch.no_grad():
        base.query_tokens.copy_(values)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    model.delete_adapter("default")
    assert torch.equal(queries(model), values)
    assert not queries(model).requires_grad
    model = trained(tiny_peft_instructblip())
    assert torch.equal(model.unload().query_tokens, values)


def test_merging_keeps_them():
    model = trained(tiny_peft_instructblip())
    merged = copy.deepcopy(model).merge_and_unload(cluster=2)
    assert torch.equal(merged.query_tokens, queries(model))
    assert relative_error(logits(merged), logits(model, cluster_ids=torch.full((3,), 2))) < 1e-5


def test_a_copy_has_its_own():
    model = tiny_peft_instructblip()
    twin = copy.deepcopy(model)
    assert queries(twin).requires_grad
    with torch.no_grad():
        queries(twin).zero_()
    assert queries(model).abs().sum() > 0
    assert (get_peft_model_state_dict(twin)[KEY] == 0).all()
    twin.set_requires_grad("default", False)
    assert queries(model).requires_grad


@pytest.mark.parametrize("first", [{}, {"parameters_to_save": None}])
def test_such_an_adapter_is_the_only_one(first):
    model = tiny_peft_instructblip(**first)
    with pytest.raises(ConfigError, match=r"trained in place.*adapter 'default' already"):
        model.add_adapter("second", second(parameters_to_save=None if not first else PARAMETERS))
    assert list(model.peft_config) == ["default"]
    expected = logits(tiny_peft_instructblip(**first), cluster_ids=IDS)
    assert torch.equal(logits(model, cluster_ids=IDS), expected)


def test_the_state_can_come_from_whoever_gathered_it():
    """ZeRO-3 has empty parameters in the model, and the gathered values in a dictionary of the trainable ones."""
    model = trained(tiny_peft_instructblip())
    expected = get_peft_model_state_dict(model)
    gathered = saved_state(model, writer=True)
    with torch.no_grad():
        queries(model).data = torch.empty(0)
    found = get_peft_model_state_dict(model, state_dict=gathered)
    assert found.keys() == expected.keys()
    assert torch.equal(found[KEY], expected[KEY])


LOADS = {
    "plain": {},
    "trainable": {"is_trainable": True},
    "low memory": {"low_cpu_mem_usage": True},
    "low memory, trainable": {"low_cpu_mem_usage": True, "is_trainable": True},
    "as saved": {"autocast_adapter_dtype": False},
}


@pytest.mark.parametrize("options", LOADS.values(), ids=LOADS)
def test_saved_and_loaded_bit_by_bit(tmp_path, options):
    model = trained(tiny_peft_instructblip())
    model.save_pretrained(tmp_path)
    assert torch.equal(load_file(tmp_path / WEIGHTS)[KEY], queries(model))
    assert PeftConfig.from_pretrained(tmp_path).parameters_to_save == PARAMETERS
    again = PeftModel.from_pretrained(tiny_instructblip(), tmp_path, **options).eval()
    assert queries(again).requires_grad == options.get("is_trainable", False)
    assert isinstance(queries(again), torch.nn.Parameter)
    found, expected = get_peft_model_state_dict(again), get_peft_model_state_dict(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert torch.equal(logits(again, cluster_ids=IDS), logits(model, cluster_ids=IDS))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_loading_keeps_the_dtype_of_the_base(tmp_path, low_cpu_mem_usage):
    trained(tiny_peft_instructblip()).save_pretrained(tmp_path)
    base = tiny_instructblip().bfloat16()
    base.query_tokens.data = base.query_tokens.data.float()
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert queries(again).dtype == torch.float32
    half = PeftModel.from_pretrained(tiny_instructblip().bfloat16(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert queries(half).dtype == torch.bfloat16
    assert torch.equal(queries(half), queries(again).bfloat16())


def test_reloading_into_the_same_adapter(tmp_path):
    model = trained(tiny_peft_instructblip())
    model.save_pretrained(tmp_path)
    expected = queries(model).detach().clone()
    trained(model, seed=5)
    assert not torch.equal(queries(model), expected)
    model.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert torch.equal(queries(model), expected)
    assert queries(model).requires_grad


def test_weights_without_them_are_refused(tmp_path):
    model = trained(tiny_peft_instructblip())
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    del weights[KEY]
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="'query_tokens' in parameters_to_save"):
        PeftModel.from_pretrained(tiny_instructblip(), tmp_path)
    with pytest.raises(CheckpointError, match="lack it"):
        set_peft_model_state_dict(model, weights)


READER = """
    import sys, torch
    from pathlib import Path
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import InstructBlipForConditionalGeneration

    folder = Path(sys.argv[1])
    ids = {"plain": {}, "adapter": {"cluster_ids": torch.tensor([3, 3, 3])}}
    for name in ("plain", "adapter"):
        base = InstructBlipForConditionalGeneration.from_pretrained(folder / "base")
        model = PeftModel.from_pretrained(base, folder / name)
        with torch.no_grad():
            logits = model(**load_file(folder / "inputs.safetensors"), **ids[name]).logits
        found = {"logits": logits, "queries": model.get_base_model().query_tokens.detach()}
        save_file(found, folder / f"{name}.safetensors")
        assert name == "adapter" or "llava_mocle" not in sys.modules
        import llava_mocle.adapter
"""


def test_a_fresh_process_reads_the_adapter_and_plain_peft_alone_a_collapsed_one(tmp_path):
    model = trained(tiny_peft_instructblip())
    model.save_pretrained(tmp_path / "adapter")
    collapse(model, 3, tmp_path / "plain")
    tiny_instructblip().save_pretrained(tmp_path / "base")
    save_file(inputs(), tmp_path / "inputs.safetensors")
    (tmp_path / "reader.py").write_text(textwrap.dedent(READER))
    subprocess.run([sys.executable, str(tmp_path / "reader.py"), str(tmp_path)], check=True)
    expected = logits(model, cluster_ids=torch.full((3,), 3))
    adapter, plain = (load_file(tmp_path / f"{name}.safetensors") for name in ("adapter", "plain"))
    assert torch.equal(adapter["queries"], queries(model))
    assert torch.equal(adapter["logits"], expected)
    assert torch.equal(plain["queries"], queries(model))
    assert relative_error(plain["logits"], expected) < 1e-5


@pytest.mark.parametrize("router", ["cluster", "none"])
def test_plain_peft_reads_them_from_a_collapsed_folder(tmp_path, router):
    """LoraConfig knows no parameters_to_save, but PEFT's loader takes every name of the model that the file holds."""
    routed = router == "cluster"
    model = (
        tiny_peft_instructblip()
        if routed
        else get_peft_model(
            tiny_instructblip(),
            plain_lora(target_modules=TARGETS, modules_to_save=MODULES, parameters_to_save=PARAMETERS),
        ).eval()
    )
    trained(model)
    folder = collapse(model, 3 if routed else None, tmp_path / "out")
    plain = PeftModel.from_pretrained(tiny_instructblip(), folder)
    assert plain.peft_config["default"].peft_type == "LORA"
    assert torch.equal(queries(plain), queries(model))
    ids = {"cluster_ids": torch.full((3,), 3)} if routed else {}
    # Sums in another order, in float32.
    assert relative_error(logits(plain), logits(model, **ids)) < 1e-5
    assert "query_tokens" in (folder / "README.md").read_text()
