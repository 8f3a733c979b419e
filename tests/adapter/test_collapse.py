"""One cluster as a plain LoRA adapter, loaded by PEFT's own LoRA runtime."""

import json
import os

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

from llava_mocle import collapse
from llava_mocle.errors import CheckpointError, ConfigError, RoutingError

from .helpers import (
    IMAGE_TOKEN,
    IMAGE_TOKENS,
    config,
    plain_lora,
    relative_error,
    tiny_llama,
    tiny_llava,
    tiny_peft,
    token_ids,
)

BATCH = token_ids(2)
ABLATIONS = {
    "mocle": ({}, 2),
    "released": ({"gate_mode": "released"}, 2),
    "no universal": ({"universal_expert": False}, 1),
    "top-2": ({"universal_expert": False, "top_k": 2}, 2),
    "dataset": ({"router": "dataset", "universal_expert": False}, 1),
}


@pytest.mark.parametrize(("changes", "factor"), ABLATIONS.values(), ids=ABLATIONS)
def test_every_cluster_through_pefts_lora(tmp_path, changes, factor):
    model = tiny_peft(**changes)
    ids_name = "dataset_ids" if changes.get("router") == "dataset" else "cluster_ids"
    for cluster in range(5):
        folder = collapse(model, cluster, tmp_path / str(cluster))
        loaded = PeftConfig.from_pretrained(folder)
        assert isinstance(loaded, LoraConfig)
        assert (loaded.r, loaded.lora_alpha) == (3 * factor, 6 * factor)
        assert set(loaded.target_modules) == set(model.sites)
        plain = PeftModel.from_pretrained(tiny_llama(), folder)
        expected = model(input_ids=BATCH, **{ids_name: torch.full((2,), cluster)}).logits
        assert relative_error(plain(input_ids=BATCH).logits, expected) < 1e-5


def test_router_none_is_a_lora_of_the_same_rank(tmp_path):
    model = get_peft_model(tiny_llama(), plain_lora(init_lora_weights=False)).eval()
    collapse(model, None, tmp_path / "out")
    assert PeftConfig.from_pretrained(tmp_path / "out").r == 3
    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path / "out")
    assert relative_error(plain(input_ids=BATCH).logits, model(input_ids=BATCH).logits) < 1e-6


def test_llava_with_its_projector(tmp_path):
    torch.manual_seed(1)
    settings = config(target_modules=r".*language_model.*\.(q_proj|v_proj)", modules_to_save=["multi_modal_projector"])
    model = get_peft_model(tiny_llava(), settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter))
    prompt = torch.cat((torch.full((2, IMAGE_TOKENS), IMAGE_TOKEN), BATCH), dim=1)
    inputs = {"input_ids": prompt, "pixel_values": torch.randn(2, 3, 16, 16)}
    for cluster in range(5):
        plain = PeftModel.from_pretrained(tiny_llava(), collapse(model, cluster, tmp_path / str(cluster)))
        expected = model(**inputs, cluster_ids=torch.full((2,), cluster)).logits
        assert relative_error(plain(**inputs).logits, expected) < 1e-5


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    model = tiny_peft()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").write_text("x")
    with pytest.raises(CheckpointError, match="not an empty folder"):
        collapse(model, 0, taken)
    assert [p.name for p in taken.iterdir()] == ["precious"]
    (tmp_path / "empty").mkdir()
    collapse(model, 0, tmp_path / "empty")
    assert (tmp_path / "empty" / "adapter_config.json").exists()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(LoraConfig, "save_pretrained", fail)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        collapse(model, 0, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_bad_requests(tmp_path):
    model = tiny_peft()
    with pytest.raises(RoutingError, match="cluster is 7, but this adapter has clusters 0 to 4"):
        collapse(model, 7, tmp_path / "out")
    with pytest.raises(RoutingError, match="cluster=c"):
        collapse(model, None, tmp_path / "out")
    lora = get_peft_model(tiny_llama(), plain_lora())
    with pytest.raises(RoutingError, match="cluster is 7, but this adapter is a plain LoRA"):
        collapse(lora, 7, tmp_path / "out")
    by_dataset = tiny_peft(router="dataset", universal_expert=False)
    with pytest.raises(RoutingError, match="this adapter has datasets 0 to 4"):
        collapse(by_dataset, 5, tmp_path / "out")
    with pytest.raises(ConfigError, match="no adapter 'other'"):
        collapse(model, 0, tmp_path / "out", adapter_name="other")
    with pytest.raises(ConfigError, match="MoCLE"):
        collapse(get_peft_model(tiny_llama(), LoraConfig(target_modules=["up_proj"])), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("umask", "modes"), [(0o022, (0o755, 0o644)), (0o077, (0o700, 0o600))])
def test_who_may_read_it_is_for_the_umask_to_say(tmp_path, umask, modes):
    before = os.umask(umask)
    try:
        folder = collapse(tiny_peft(), 2, tmp_path / "out")
    finally:
        os.umask(before)
    weights = folder / "adapter_model.safetensors"
    assert tuple(path.stat().st_mode & 0o777 for path in (folder, weights)) == modes


def test_the_folder_does_not_mention_mocle(tmp_path):
    collapse(tiny_peft(), 2, tmp_path / "out")
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert values["peft_type"] == "LORA"
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == files
