"""Runs with other gates: they train, a resumed run equals an unbroken one to the bit, and the result answers."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llava_mocle.inference import Predictor, Request
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train

ROUTER = "base_model.mocle_router."
VARIANTS = {
    "fixed embedding": {"train_cluster_embedding": False},
    "balanced": {"gate_init": "balanced"},
    "cluster is expert": {"adapter": "cluster", "gates": "fixed", "num_experts": 2},
    "task experts": {
        "adapter": "dataset", "gates": "fixed", "num_experts": 2, "dataset_groups": {"b": ["sums"], "a": ["pictures"]},
    },
    "groups with gates": {"adapter": "dataset", "dataset_groups": {"all": ["sums", "pictures"]}},
}  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_run_and_its_resumption(recipe_file, tmp_path, clusters, changes) -> None:
    recipe = recipe_file(save_strategy="steps", save_steps=2, **changes)
    train(load_recipe(recipe, ["--output_dir", str(tmp_path / "unbroken")]))
    train(load_recipe(recipe, ["--output_dir", str(tmp_path / "out"), "--stop_after_steps", "2"]))
    train(load_recipe(recipe, ["--output_dir", str(tmp_path / "out")]))
    weights, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "unbroken"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)

    router = {name.removeprefix(ROUTER) for name in weights if name.startswith(ROUTER)}
    assert router == (set() if changes.get("gates") == "fixed" else {"gate_weight", "cluster_embedding"})
    if not changes.get("train_cluster_embedding", True):
        centroids = load_file(clusters / "centroids.safetensors")["centroids"]
        assert torch.equal(weights[f"{ROUTER}cluster_embedding"], centroids)
    saved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert {key: saved[key] for key in changes} == changes

    predictor = Predictor.from_pretrained(tmp_path / "out", device="cpu", dtype="float32")
    if changes.get("adapter") == "dataset":
        groups = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["dataset_groups"]
        assert groups == ([0, 1] if len(changes["dataset_groups"]) == 2 else [0, 0])
        requests = [Request("How much is 3 and 3?", dataset=name) for name in ("pictures", "sums", 0)]
        assert predictor.routes(requests) == [0, 1, 0]  # ids are the datasets'
        gates = predictor.model.clean_gates()
        if changes.get("gates") == "fixed":
            assert gates.argmax(dim=-1).tolist() == [[0] * gates.shape[1], [1] * gates.shape[1]]
        else:
            assert torch.equal(gates[0], gates[1])
    else:
        requests = [Request("How much is 3 and 3?"), Request("What colour is picture 3?")]
    assert len(predictor.predict_batch(requests, max_new_tokens=2)) == len(requests)
