"""Gradient checkpointing recomputes the language model, and leaves the frozen tower alone."""

from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train


@pytest.mark.parametrize(("checkpointing", "language_runs"), [(False, 1), (True, 2)])
def test_the_tower_is_never_recomputed_nor_differentiated(
    recipe_file, tmp_path: Path, checkpointing: bool, language_runs: int
) -> None:
    trainer = train(load_recipe(recipe_file(max_steps=1, gradient_checkpointing=checkpointing)))
    llava = trainer.model.get_base_model().model
    tower_layer = next(module for name, module in llava.vision_tower.named_modules() if name.endswith("layers.0"))
    runs = {"tower": 0, "language": 0}
    differentiated = []

    def tower_ran(module, inputs, output) -> None:
        runs["tower"] += 1
        differentiated.append((output[0] if isinstance(output, tuple) else output).requires_grad)

    def language_ran(module, inputs) -> None:
        runs["language"] += 1

    tower_layer.register_forward_hook(tower_ran)
    # Before the layer: checkpointing stops a recomputation as soon as it has what it needs.
    llava.language_model.layers[0].self_attn.q_proj.register_forward_pre_hook(language_ran)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    trainer.model.train()
    trainer.model(**batch).loss.backward()
    assert runs == {"tower": 1, "language": language_runs}
    assert differentiated == [False]
