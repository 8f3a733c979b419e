"""Adapter folders as engines take them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_mocle.errors import CheckpointError
from llava_mocle.export.adapters import Lora, with_twins, write_lora

UP, DOWN = "model.language_model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.down_proj"
GATE = UP.replace("up_proj", "gate_proj")


def lora(*sites: str, rank: int = 4, scaling: float = 2.0) -> Lora:
    return Lora("cluster_0", {site: (torch.randn(rank, 6), torch.randn(8, rank)) for site in sites}, scaling)


def test_twins() -> None:
    shapes = {UP: (8, 6), GATE: (8, 6), DOWN: (6, 8)}
    found = with_twins(lora(UP, DOWN), shapes)
    assert set(found.pairs) == {UP, DOWN, GATE}
    pair_A, pair_B = found.pairs[GATE]
    assert (pair_A.shape, pair_B.shape) == ((4, 6), (8, 4))
    assert not pair_A.any()
    assert not pair_B.any()
    # Of attention, SGLang takes all three together.
    names = {
        part: f"model.language_model.layers.0.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    sizes = {names["q_proj"]: (8, 6), names["k_proj"]: (4, 6), names["v_proj"]: (4, 6), names["o_proj"]: (6, 8)}
    found = with_twins(lora(names["q_proj"]), sizes)
    assert {site: len(pair_B) for site, (_, pair_B) in found.pairs.items()} == {
        names["q_proj"]: 8,
        names["k_proj"]: 4,
        names["v_proj"]: 4,
    }
    # Both halves, or neither, or a model without such a half: nothing is added.
    for sites, known in (((UP, GATE), shapes), ((DOWN,), shapes), ((UP,), {UP: (8, 6)})):
        assert set(with_twins(lora(*sites), known).pairs) == set(sites)


@pytest.mark.parametrize(("scaling", "alpha"), [(2.0, 8), (0.375, 1.5)])
def test_alpha_keeps_the_scaling(scaling: float, alpha: float, tmp_path: Path) -> None:
    write_lora(tmp_path / "a", lora(UP, scaling=scaling), torch.float16, "../base")
    settings = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (4, alpha, [UP])
    assert {tensor.dtype for tensor in load_file(tmp_path / "a/adapter_model.safetensors").values()} == {torch.float16}


def test_numbers_that_a_dtype_cannot_hold(tmp_path: Path) -> None:
    large = Lora("cluster_3", {UP: (torch.full((1, 2), 1e6), torch.ones(2, 1))}, 1.0)
    with pytest.raises(CheckpointError, match=r"cluster_3: .*up_proj\.lora_A\.weight holds numbers that float16"):
        write_lora(tmp_path / "a", large, torch.float16, "../base")
