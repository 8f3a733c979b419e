"""Whole models are written under the engines' names, and one shard at a time."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llava_mocle.export import whole_model
from llava_mocle.export.whole_model import engine_name, text_name, write_weights


class Silent:
    total = 0.0

    def update(self, n: float = 1) -> None:
        self.total += n


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.vision_tower.embeddings.class_embedding", "vision_tower.vision_model.embeddings.class_embedding"),
        ("model.vision_tower.vision_model.post_layernorm.bias", "vision_tower.vision_model.post_layernorm.bias"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
    ],
)
def test_names(ours: str, theirs: str) -> None:
    assert engine_name(ours, "clip_vision_model") == theirs


def test_a_grid_tower_has_no_inner_level() -> None:
    assert engine_name("model.vision_tower.backbone.x", "llava_mocle_grid") == "vision_tower.backbone.x"


def test_the_language_model_alone() -> None:
    assert text_name("model.language_model.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
    assert text_name("lm_head.weight") == "lm_head.weight"
    assert text_name("model.vision_tower.x") is None


def test_only_one_shard_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 merged matrices of 16 KiB, never more than one shard of 40 KiB is in memory beside the model."""
    torch.manual_seed(0)
    weights = {f"lm_head.{index}.weight": torch.randn(64, 64) for index in range(8)}
    own = {tensor.data_ptr() for tensor in weights.values()}
    pairs = {name.removesuffix(".weight"): (torch.randn(2, 64), torch.randn(64, 2)) for name in weights}
    held: list[weakref.ref[Tensor]] = []
    most = []
    save = whole_model.save_file

    def counted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        held.extend(weakref.ref(tensor) for tensor in tensors.values() if tensor.data_ptr() not in own)
        most.append(sum(tensor.nbytes for ref in held if (tensor := ref()) is not None))
        save(tensors, path, metadata)

    monkeypatch.setattr(whole_model, "save_file", counted)
    bar = Silent()
    write_weights(tmp_path, weights, torch.float32, text_name, bar, pairs, 0.5, shard_bytes=40 * 1024)
    assert len(most) == 4
    assert max(most) <= 40 * 1024
    assert bar.total == 8 * 16 * 1024
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 8 * 16 * 1024
    for name, tensor in weights.items():
        pair_A, pair_B = pairs[name.removesuffix(".weight")]
        found = load_file(tmp_path / index["weight_map"][name])[name]
        # Float32 sums of two products: 1e-6 is rounding.
        torch.testing.assert_close(found, tensor + 0.5 * pair_B @ pair_A, rtol=1e-6, atol=1e-6)
