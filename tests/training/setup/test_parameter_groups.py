"""Optimizer groups: what decays, and what has a learning rate of its own."""

from types import SimpleNamespace

from torch import nn

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from llava_mocle.training.setup.parameter_groups import parameter_groups


def test_vectors_do_not_decay() -> None:
    model = nn.ModuleDict(
        {
            "multi_modal_projector": nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)),
            "mocle_experts": nn.Linear(3, 2),
            "mocle_router": nn.Linear(2, 2),
        }
    )
    args = SimpleNamespace(learning_rate=0.1, mm_projector_lr=None, gate_learning_rate=None, weight_decay=0.3)
    names = {id(value): name for name, value in model.named_parameters()}
    decays = {
        names[id(value)]: group["weight_decay"] for group in parameter_groups(model, args) for value in group["params"]
    }
    assert decays == {
        "multi_modal_projector.0.weight": 0.3,
        "multi_modal_projector.0.bias": 0.0,
        "multi_modal_projector.1.weight": 0.0,
        "multi_modal_projector.1.bias": 0.0,
        "mocle_experts.weight": 0.3,
        "mocle_experts.bias": 0.0,
        "mocle_router.weight": 0.3,
        "mocle_router.bias": 0.0,
    }


def test_decay_reaches_the_optimizer(recipe_file) -> None:
    trainer = train(load_recipe(recipe_file(max_steps=1, weight_decay=0.3)))
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decays == {"experts": 0.3, "router": 0.3, "projector": 0.3, "projector_bias": 0.0}
