"""The sampler of a run: an order for each epoch, or datasets drawn by weight."""

import numpy as np

from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.data.sampler import GlobalBatchSampler
from llava_mocle.data.weighted_sampler import WeightedBatchSampler
from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.resume import global_batch


def make_sampler(dataset: RowDataset, args: MocleTrainingArguments) -> GlobalBatchSampler:
    """The order in which a run meets its samples.

    Raises:
        ConfigError: `dataloader_drop_last` would leave no step.
        DataError: a dataset has a weight, and none of its rows is left.
    """
    batch = global_batch(args)
    seed = args.seed if args.data_seed is None else args.data_seed
    weights = dataset.mixture.weights
    if weights is not None:
        return _weighted(dataset, weights, args, batch, seed)
    if args.dataloader_drop_last and len(dataset) < batch:
        raise _on_every_rank(
            ConfigError(
                f"dataloader_drop_last is true, and {len(dataset)} samples make no whole global batch of {batch} "
                f"(per_device_train_batch_size {args.per_device_train_batch_size} x gradient_accumulation_steps "
                f"{args.gradient_accumulation_steps} x {args.world_size} processes), so no step would be taken; leave "
                "dataloader_drop_last out (the last batch is filled up without labels), or make the batch smaller"
            )
        )
    return GlobalBatchSampler(
        dataset.lengths,
        dataset.has_image,
        batch,
        seed=seed,
        grouped=args.group_by_modality_length,
        drop_last=args.dataloader_drop_last,
    )


def _weighted(
    dataset: RowDataset, weights: np.ndarray, args: MocleTrainingArguments, batch: int, seed: int
) -> WeightedBatchSampler:
    mixture = dataset.mixture
    ids = dataset.of_samples(mixture.ids_of_rows())
    for position, spec in enumerate(mixture.specs):
        if not (ids == position).any():
            raise _on_every_rank(
                DataError(
                    f"{spec.data_path}: dataset {spec.name!r} has {spec.how_often()}, but none of its rows fits into "
                    f"max_length {dataset.encoder.max_length}; give a larger one, or leave the dataset out"
                )
            )
    return WeightedBatchSampler(
        dataset.lengths,
        dataset.has_image,
        ids,
        weights,
        batch,
        args.max_steps,
        seed=seed,
        grouped=args.group_by_modality_length,
    )


def _on_every_rank(error: UserError) -> UserError:
    error.on_every_rank = True
    return error
