"""What the trainer changes in `transformers.Trainer`, and that the private names it relies on are still there."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
import transformers
from transformers import Trainer

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop import trainer as module
from llava_mocle.training.loop.trainer import TRAINER_INTERNALS, MocleTrainer
from llava_mocle.training.run import train

INTERNALS = dict(TRAINER_INTERNALS)
OWN = {name: value for name, value in vars(MocleTrainer).items() if inspect.isfunction(value)}
OVERRIDDEN = sorted(name for name in OWN if hasattr(Trainer, name) and not name.startswith("__"))


def self_names(source: str, assigned: bool = False) -> set[str]:
    """Names of the attributes of `self` (or of `super()`) in a class's source, only those assigned to if wanted."""
    names = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            of_self = isinstance(owner, ast.Name) and owner.id == "self"
            of_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
            if (of_self or of_super) and (not assigned or isinstance(node.ctx, ast.Store)):
                names.add(node.attr)
    return names


TRAINER_SOURCE = inspect.getsource(Trainer)
USED = self_names(TRAINER_SOURCE)
MADE = set(dir(Trainer)) | self_names(TRAINER_SOURCE, assigned=True)


@pytest.mark.parametrize("name", INTERNALS)
def test_transformers_has_what_the_trainer_relies_on(name: str) -> None:
    version = transformers.__version__
    lost = f"the trainer relies on it: {INTERNALS[name]}. Look in transformers' trainer.py for what took its place"
    assert name in MADE, f"transformers {version} has no Trainer.{name} any more, and {lost}"
    assert name in USED, f"transformers {version} does not use Trainer.{name} any more, and {lost}"


def test_every_private_name_in_use_is_listed() -> None:
    used = {name for name in self_names(inspect.getsource(module)) | OWN.keys() if name.startswith("_")}
    of_trainer = {name for name in used if name in MADE and not name.startswith("__")}
    assert of_trainer == set(INTERNALS)


def test_the_inventory_sees_a_missing_name() -> None:
    """The two tests above would notice: a name that no class has is in neither set."""
    assert "_save_checkpoint_to" not in MADE | USED
    assert {"_tr_loss", "_total_loss_scalar", "_globalstep_last_logged"} <= self_names(TRAINER_SOURCE, assigned=True)
    assert "_total_loss_scalar" not in dir(Trainer)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_parameters_of_overridden_methods_are_still_there(name: str) -> None:
    theirs = list(inspect.signature(getattr(Trainer, name)).parameters)
    ours = inspect.signature(OWN[name]).parameters.values()
    for place, parameter in enumerate(ours):
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert theirs[place] == parameter.name, (
                f"transformers {transformers.__version__}: argument {place} of Trainer.{name} is {theirs[place]}, "
                f"expected {parameter.name}"
            )
        elif parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.name in theirs


def test_data_seed_chooses_the_order_alone(recipe_file, tmp_path: Path) -> None:
    def order(**keys: int) -> list[int]:
        trainer = train(load_recipe(recipe_file(max_steps=1, output_dir=str(tmp_path / str(keys)), **keys)))
        return list(trainer._get_train_sampler())

    usual = order(seed=7)
    assert order(seed=7, data_seed=8) == order(seed=8) != usual
    assert order(seed=8, data_seed=7) == usual


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
