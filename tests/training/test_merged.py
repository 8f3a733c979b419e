"""A trained LLaVA, merged and saved, is the same model to plain transformers as the adapter routed to that cluster."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import LlavaForConditionalGeneration

from llava_mocle.errors import RoutingError
from llava_mocle.model.load import LoadedModel, load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train

ROUTES = {"mocle": "cluster_ids", "cluster": "cluster_ids", "dataset": "dataset_ids", "lora": None}


def trained(recipe_file, tmp_path: Path, adapter: str) -> Path:
    """Stage 1, then stage 2 from its projector."""
    train(load_recipe(recipe_file(stage="pretrain", max_steps=2, output_dir=str(tmp_path / "one"))))
    keys = {"adapter": adapter, "pretrain_mm_mlp_adapter": str(tmp_path / "one"), "output_dir": str(tmp_path / "two")}
    train(load_recipe(recipe_file(**keys)))
    return tmp_path / "two"


def inputs_of(loaded: LoadedModel, mix: list[dict]) -> dict[str, torch.Tensor]:
    picture = Image.open(Path(mix[0]["image_folder"], "3.png"))
    pixels = loaded.image_processor(images=picture, return_tensors="pt")["pixel_values"]
    text = loaded.tokenizer("What colour is picture 3?", return_tensors="pt").input_ids
    image = torch.full((1, loaded.image_tokens_per_image), loaded.image_token_id)
    return {"input_ids": torch.cat([image, text], dim=1), "pixel_values": pixels.to(loaded.model.dtype)}


@torch.no_grad()
def logits(model, inputs: dict[str, torch.Tensor], **route) -> torch.Tensor:
    return model(**inputs, **route).logits.float()


@pytest.mark.parametrize("adapter", ROUTES)
def test_merged_saved_and_loaded(adapter: str, recipe_file, mix: list[dict], base: Path, tmp_path: Path) -> None:
    run = trained(recipe_file, tmp_path, adapter)
    clusters = [None] if adapter == "lora" else [0, 1]
    for cluster in clusters:
        loaded = load_model(run)
        model, inputs = loaded.model, inputs_of(loaded, mix)
        route = {} if cluster is None else {ROUTES[adapter]: torch.tensor([cluster])}
        expected = logits(model, inputs, **route)
        model.merge_and_unload(cluster=cluster).save_pretrained(tmp_path / f"merged_{cluster}")
        plain = LlavaForConditionalGeneration.from_pretrained(tmp_path / f"merged_{cluster}").eval()
        # Float32: the low-rank products are added before or after the multiplication with the input.
        torch.testing.assert_close(logits(plain, inputs), expected, atol=1e-4, rtol=0)
        untrained = LlavaForConditionalGeneration.from_pretrained(base).eval()
        assert (logits(untrained, inputs) - expected).abs().max() > 0.1


def test_merged_in_bfloat16(recipe_file, mix: list[dict], tmp_path: Path) -> None:
    loaded = load_model(trained(recipe_file, tmp_path, "mocle"), dtype=torch.bfloat16)
    inputs = inputs_of(loaded, mix)
    expected = logits(loaded.model, inputs, cluster_ids=torch.tensor([1]))
    loaded.model.merge_and_unload(cluster=1).save_pretrained(tmp_path / "merged")
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    assert plain.dtype == torch.bfloat16
    found = logits(plain, inputs)
    # Eight bits of mantissa: merged weights and each layer's outputs are rounded by up to 2 ** -9.
    assert (found - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize(("adapter", "cluster", "message"), [
    ("mocle", 2, "cluster is 2, but this adapter has clusters 0 to 1"),
    ("mocle", -1, "cluster is -1, but this adapter has clusters 0 to 1"),
    ("mocle", None, "pass cluster=c"),
    ("dataset", 2, "cluster is 2, but this adapter has datasets 0 to 1"),
    ("lora", 0, "this adapter is a plain LoRA"),
])  # fmt: skip
def test_a_cluster_that_is_not_there_changes_nothing(
    adapter: str, cluster: int | None, message: str, recipe_file, mix: list[dict], tmp_path: Path
) -> None:
    train(load_recipe(recipe_file(adapter=adapter, max_steps=1)))
    loaded = load_model(tmp_path / "run")
    model, inputs = loaded.model, inputs_of(loaded, mix)
    route = {} if adapter == "lora" else {ROUTES[adapter]: torch.tensor([0])}
    expected = logits(model, inputs, **route)
    with pytest.raises(RoutingError, match=message):
        model.merge_and_unload(cluster=cluster)
    assert isinstance(model, PeftModel)
    assert torch.equal(logits(model, inputs, **route), expected)
