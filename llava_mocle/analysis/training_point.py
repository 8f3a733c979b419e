"""A model at one point of its training, put together as training puts it together, and the rows that it trains on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import set_seed

from llava_mocle.adapter import ROUTING_INPUTS
from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.errors import ConfigError
from llava_mocle.io.progress import progress
from llava_mocle.model.folders import RECIPE_FILE, find_folder
from llava_mocle.model.projector import load_projector
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe, load_recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.setup.adapter import adapt
from llava_mocle.training.setup.base_defaults import settle
from llava_mocle.training.setup.data import prepare_data
from llava_mocle.training.setup.model import load_start
from llava_mocle.training.setup.parameter_groups import group_of
from llava_mocle.training.setup.warm_start import find_warm_start, start_from


@dataclass
class TrainingPoint:
    """A model at one point of its training, and the rows that it trains on.

    Attributes:
        model: in training mode, but for dropout layers and the noise of the gates, which are off.
        rows: each row once, whatever the recipe's `repeat` says.
        names: the datasets.
        args: of the run.
        where: the point, in words.
    """

    model: nn.Module
    rows: RowDataset
    names: list[str]
    args: MocleTrainingArguments
    where: str

    def draw(self, number: int, seed: int) -> list[list[int]]:
        """Of each dataset, the places of up to `number` samples, drawn by chance without a row twice."""
        datasets = self.rows.of_samples(self.rows.mixture.ids_of_rows())
        return [
            np.random.default_rng([seed, dataset]).permutation(np.flatnonzero(datasets == dataset))[:number].tolist()
            for dataset in range(len(self.names))
        ]

    def load(self, drawn: Sequence[tuple[int, list[int]]], unit: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(dataset, batch) of every (dataset, samples), as they are asked for, with a progress bar.

        Args:
            unit: what the bar counts.
        """
        collate = self.rows.encoder.collator()
        with progress(len(drawn), "measuring", unit, patience=2.0) as bar:
            for dataset, samples in drawn:
                batch = collate([self.rows[sample] for sample in samples])
                yield dataset, {key: value.to(self.args.device) for key, value in batch.items()}
                bar.update()

    def loss_of(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The model's loss: the mean over the supervised tokens of a batch."""
        if not isinstance(model, PeftModel):
            batch = {key: value for key, value in batch.items() if key not in ROUTING_INPUTS}
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=bool(self.args.bf16)):
            loss: Tensor = model(**batch).loss
        return loss


def load_point(
    source: str | Path, overrides: Sequence[str] = (), more: Sequence[Mapping[str, Any]] = ()
) -> TrainingPoint:
    """Load a run's folder, a checkpoint, or the start of a recipe, on one device.

    Args:
        source: a folder that holds recipe.yaml, or a recipe.
        overrides: keys of the recipe, as words of the command line.
        more: datasets behind those of the recipe, each as an entry of its `datasets`.

    Raises:
        UserError: the recipe, the data or the weights are wrong.
    """
    recipe, folder = _recipe_of(Path(source), overrides)
    args = recipe.training_arguments(report_to="none", deepspeed=None)
    if folder is None:  # what has been trained is taken as it is
        check_recipe(recipe, args)
    recipe = settle(recipe, folder).recipe
    once = [{**entry, "repeat": 1, "weight": None, "eval_data_path": None} for entry in recipe.data.entries()]
    datasets: Any = [*once, *more]
    recipe = replace(recipe, data=replace(recipe.data, **_ONE_DATASET, datasets=datasets))
    set_seed(args.seed)
    loaded = load_start(recipe, args, folder)
    data = prepare_data(recipe, loaded)
    set_seed(args.seed)
    model: Any = adapt(recipe, args, loaded.model, data.dataset_names, loaded.base_record)
    where = f"the start of {source}"
    if folder is not None:
        where = str(folder)
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), model.active_adapters[0], is_trainable=True)
        else:
            load_projector(model, folder)
    elif recipe.model.warm_start:
        start_from(find_warm_start(recipe), model)
    model.to(args.device).train()
    if args.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) or group_of(name) == "router":  # the gates' noise
            module.eval()
    return TrainingPoint(model, data.train, data.dataset_names, args, where)


_ONE_DATASET: dict[str, Any] = {"data_path": None, "image_folder": None, "eval_data_path": None}


def _recipe_of(source: Path, overrides: Sequence[str]) -> tuple[Recipe, Path | None]:
    """The recipe, and the folder whose weights are taken; None for the start of the recipe."""
    if source.is_file():
        return load_recipe(source, overrides), None
    folder = find_folder(source, "a run's folder or a recipe", download=False)
    if not (folder / RECIPE_FILE).is_file():
        raise ConfigError(f"{folder}: holds no {RECIPE_FILE}; give the folder of a run, a checkpoint, or a recipe")
    return load_recipe(folder / RECIPE_FILE, overrides), folder
