"""Which held-out rows a validation pass reads, and in which order."""

import logging
import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Subset

from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.resume import global_batch

logger = logging.getLogger(__name__)

# A pass reads a row for so many that were trained since the last one. A row without backward, in larger batches, takes
# at most half the time of a trained one: then validation takes a tenth of the training's.
_TRAINED_FOR_ONE = 5
# A mean over fewer rows says little.
_FEWEST = 32


def held_out_pass(rows: RowDataset, args: MocleTrainingArguments, trained: int) -> Subset:
    """The rows of a validation pass, longest first, so that batches hold rows of one length; the same in every pass.

    All processes have the same number of full batches, and no row counts twice. So `args.per_device_eval_batch_size` is
    made smaller, as far as that takes no more batches, and fillers (see `RowDataset`) come last for what is missing.

    Args:
        rows: all that are held out.
        trained: samples of an epoch, fillers not counted.
    """
    between = rows_between(args, trained)
    count = rows_of_pass(args.eval_rows, len(rows), between)
    chosen = choose_rows(rows, count, args.seed if args.data_seed is None else args.data_seed)
    if args.process_index == 0:
        _announce(count, len(rows), between, args)
    order = chosen[np.argsort(-rows.lengths[chosen], kind="stable")]
    args.per_device_eval_batch_size = batch = even_batch(len(order), args.eval_batch_size, args.world_size)
    missing = -len(order) % (batch * args.world_size)
    return Subset(rows, [*order.tolist(), *[~int(order[-1])] * missing])


def even_batch(count: int, most: int, processes: int) -> int:
    """The smallest batch on each process with which `count` rows take as many batches as with `most` rows in one."""
    batches = math.ceil(count / (most * processes))
    return math.ceil(count / (batches * processes))


def rows_of_pass(wanted: int | None, held_out: int, between: int) -> int:
    """How many of the held-out rows a pass reads.

    Args:
        wanted: the key `eval_rows`.
        held_out: how many there are.
        between: samples that are trained between two passes.
    """
    if wanted is None:
        wanted = max(_FEWEST, between // _TRAINED_FOR_ONE)
    return min(wanted or held_out, held_out)


def rows_between(args: MocleTrainingArguments, trained: int) -> int:
    """Samples that are trained between two validation passes, or in all steps if these are fewer.

    Args:
        trained: samples of an epoch.
    """
    batch = global_batch(args)
    epoch = max(1, trained // batch if args.dataloader_drop_last else math.ceil(trained / batch))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch)
    every = {"steps": args.eval_steps, "epoch": epoch}.get(str(args.eval_strategy.value)) or steps
    if every < 1:  # a share of all steps, as transformers takes it
        every = math.ceil(every * steps)
    return int(min(every, steps)) * batch


def choose_rows(rows: RowDataset, count: int, seed: int) -> np.ndarray:
    """Samples by chance, of each dataset in proportion to its size, and at least one of each dataset and cluster.

    Where a cluster would have none, one more is taken. A larger `count` keeps the samples of a smaller one, up to
    rounding. Sorted, int64.
    """
    if count >= len(rows):
        return np.arange(len(rows))
    datasets = rows.of_samples(rows.mixture.ids_of_rows())
    shuffled = {
        int(dataset): np.random.default_rng([seed, dataset]).permutation(np.flatnonzero(datasets == dataset))
        for dataset in np.unique(datasets)
    }
    sizes = np.array([len(samples) for samples in shuffled.values()])
    chosen = [samples[:share] for samples, share in zip(shuffled.values(), _shares(sizes, count).tolist(), strict=True)]
    if rows.cluster_ids is not None:
        clusters = rows.of_samples([rows.cluster_ids[name] for name in rows.mixture.names])
        chosen += _of_clusters(clusters, np.concatenate(chosen), np.concatenate(list(shuffled.values())))
    return np.sort(np.concatenate(chosen))


def _shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """`count` in proportion to `sizes`, in whole numbers by the largest remainder, each at least 1."""
    exact = sizes * (count / sizes.sum())
    shares = np.maximum(1, np.floor(exact)).astype(np.int64)
    for place in np.argsort(-(exact - shares), kind="stable")[: max(0, count - int(shares.sum()))]:
        shares[place] += 1
    return shares


def _of_clusters(clusters: np.ndarray, chosen: np.ndarray, shuffled: np.ndarray) -> Iterator[np.ndarray]:
    """The first of the shuffled samples of each cluster that none of the chosen has."""
    for cluster in np.setdiff1d(clusters, clusters[chosen]):
        yield shuffled[clusters[shuffled] == cluster][:1]


def _announce(chosen: int, all_rows: int, between: int, args: MocleTrainingArguments) -> None:
    if str(args.eval_strategy.value) == "no":
        return
    if chosen < all_rows:
        print(
            f"validating on {chosen:,} of {all_rows:,} held-out rows each time, for {between:,} trained rows; "
            "--eval_rows 0 takes all",
            flush=True,
        )
    if args.eval_rows is None and chosen * _TRAINED_FOR_ONE > between:
        logger.warning(
            "validation comes after every %d trained rows, and reads %d: that may take more than a tenth of the run; "
            "a larger eval_steps makes it rarer",
            between,
            chosen,
        )
