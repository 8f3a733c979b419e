"""The negative-transfer probe: do the datasets of a run pull what they share in one direction?

The model is put together as training puts it together, at a checkpoint of a run or where a recipe would start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import set_seed

from llava_mocle.adapter import ROUTING_INPUTS
from llava_mocle.analysis.domain_gradients import DomainGradients, measure_gradients
from llava_mocle.analysis.gradient_cosines import FEWEST_BATCHES
from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.errors import ConfigError, DataError
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


def load_point(source: str | Path, overrides: Sequence[str] = ()) -> TrainingPoint:
    """Load a run's folder, a checkpoint, or the start of a recipe, on one device.

    Args:
        source: a folder that holds recipe.yaml, or a recipe.
        overrides: keys of the recipe, as words of the command line.

    Raises:
        UserError: the recipe, the data or the weights are wrong.
    """
    recipe, folder = _recipe_of(Path(source), overrides)
    args = recipe.training_arguments(report_to="none", deepspeed=None)
    if folder is None:  # what has been trained is taken as it is
        check_recipe(recipe, args)
    recipe = settle(recipe, folder).recipe
    once: Any = [{**entry, "repeat": 1, "weight": None} for entry in recipe.data.entries()]
    recipe = replace(recipe, data=replace(recipe.data, **_ONE_DATASET, datasets=once))
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


def draw_batches(
    rows: RowDataset, names: Sequence[str], number: int, size: int, seed: int
) -> list[tuple[int, list[int]]]:
    """(dataset, its samples) of up to `number` batches of each dataset, drawn by chance without a row twice.

    Raises:
        DataError: a dataset has too few rows.
    """
    datasets = rows.of_samples(rows.mixture.ids_of_rows())
    drawn = []
    for dataset, name in enumerate(names):
        samples = np.random.default_rng([seed, dataset]).permutation(np.flatnonzero(datasets == dataset))
        found = min(number, len(samples) // size)
        if found < FEWEST_BATCHES:
            raise DataError(
                f"dataset {name!r} has {len(samples)} rows, and {FEWEST_BATCHES} batches of {size} are needed at "
                "least; set per_device_train_batch_size to less, or leave the dataset out"
            )
        drawn += [(dataset, batch.tolist()) for batch in samples[: found * size].reshape(found, size)]
    return drawn


def probe(point: TrainingPoint, number: int, seed: int = 0) -> DomainGradients:
    """Measure `number` batches of each dataset.

    Raises:
        ConfigError: fewer than two datasets, or nothing that they share.
        DataError: a dataset has too few rows.
    """
    if len(point.names) < 2:
        raise ConfigError(f"one dataset ({point.names[0]}) has no other to be compared with; the probe needs two")
    if number < FEWEST_BATCHES:
        raise ConfigError(f"--batches is {number}, expected at least {FEWEST_BATCHES}")
    size = point.args.per_device_train_batch_size
    drawn = draw_batches(point.rows, point.names, number, size, seed)
    return measure_gradients(point.model, _loaded(point, drawn), point.names, _Loss(point.args), batch_size=size)


def _loaded(point: TrainingPoint, drawn: Sequence[tuple[int, list[int]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    collate = point.rows.encoder.collator()
    with progress(len(drawn), "measuring", "gradient", patience=2.0) as bar:
        for dataset, samples in drawn:
            batch = collate([point.rows[sample] for sample in samples])
            yield dataset, {key: value.to(point.args.device) for key, value in batch.items()}
            bar.update()


class _Loss:
    """The model's loss: the mean over the supervised tokens of a batch."""

    def __init__(self, args: MocleTrainingArguments) -> None:
        self._autocast = {"device_type": args.device.type, "dtype": torch.bfloat16, "enabled": bool(args.bf16)}

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        if not isinstance(model, PeftModel):
            batch = {key: value for key, value in batch.items() if key not in ROUTING_INPUTS}
        with torch.autocast(**self._autocast):
            loss: Tensor = model(**batch).loss
        return loss
