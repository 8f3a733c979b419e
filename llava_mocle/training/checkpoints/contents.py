"""What a checkpoint folder holds besides weights, and how the newest whole one is found."""

import dataclasses
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model.folders import CLUSTERS_FOLDER, RECIPE_FILE
from llava_mocle.recipe.keys import DataArguments
from llava_mocle.recipe.recipe import CLUSTERING_KEYS, Recipe, load_recipe, write_recipe
from llava_mocle.training.checkpoints.manifest import flaw, read_manifest

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

logger = logging.getLogger(__name__)

ABANDONED_FOLDER = "abandoned"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Keys that say how to run, not what is trained: they may change between a run and its resumption.
_FREE_KEYS = {
    "resume", "stop_after_steps", "output_dir", "logging_steps", "save_steps", "save_total_limit", "report_to",
    "eval_steps", "dataloader_num_workers", "vision_feature_cache", "disable_tqdm", "attn_implementation",
    "run_name", "save_strategy", "eval_strategy", "logging_strategy", "model_config", "deepspeed",
    "universal_checkpoint", "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
    "gradient_checkpointing", "activation_checkpointing", "activation_checkpointing_kwargs", "ddp_timeout",
    "cluster_cache_dir", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_delay",
    "logging_first_step", "logging_dir", "eval_accumulation_steps", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory", "logging_nan_inf_filter",
    "corrupt_images", "use_cpu", "dataloader_multiprocessing_context", "torch_empty_cache_steps", "skip_memory_metrics",
    "gradient_checkpointing_kwargs",
}  # fmt: skip

# The ways to say which data there is; `datasets` can say all of them.
_DATA_KEYS = ("datasets", "data_path", "image_folder", "eval_data_path")


@dataclass
class CheckpointExtras:
    """What every `checkpoint-N` gets besides weights, so that it can be loaded without any other folder but its base.

    Attributes:
        data_identity: the digests of the data and of the clustering, for the manifest (see `data_identity`).
    """

    recipe: Recipe
    tokenizer: Any
    image_processor: Any
    cluster_model: "ClusterModel | None" = None
    data_identity: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write the resolved recipe, the processor and the cluster model into `folder`."""
        folder = Path(folder)
        write_recipe(self.recipe, folder / RECIPE_FILE)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        if self.cluster_model is not None:
            self.cluster_model.save(folder / CLUSTERS_FOLDER, overwrite=True)


def checkpoint_step(folder: Path) -> int:
    """N of a folder named checkpoint-N; -1 for any other name."""
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """The whole checkpoint with the most steps in `output_dir`, or None; each that is not whole gets a warning."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return None
    for candidate in sorted(folder.iterdir(), key=checkpoint_step, reverse=True):
        if checkpoint_step(candidate) < 0:
            continue
        trouble = flaw(candidate)
        if trouble is None:
            return candidate
        logger.warning("%s is not whole (%s); looking for an older one", candidate, trouble)
    return None


def set_aside_after(checkpoint: Path) -> list[Path]:
    """Move the checkpoints in the same folder that have more steps into `abandoned/`; returns their old paths."""
    step, folder = checkpoint_step(checkpoint), checkpoint.parent
    later = [path for path in folder.iterdir() if checkpoint_step(path) > step]
    for path in later:
        target = folder / ABANDONED_FOLDER / path.name
        target.parent.mkdir(exist_ok=True)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{path.name}.{number}")
        os.replace(path, target)
    return sorted(later, key=checkpoint_step)


def check_same_recipe(checkpoint: Path, recipe: Recipe, global_batch: int) -> None:
    """Refuse to resume under a recipe that would change what is trained.

    How the global batch is split over processes, device batches and accumulation steps may change; its size may not.
    Rows and a cluster model whose digests the manifest has may lie elsewhere: `check_data_identity` compares them.

    Raises:
        ConfigError: names every key that differs, with both values.
    """
    path = checkpoint / RECIPE_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; this checkpoint cannot be resumed safely")
    # A key that is not there had its default.
    defaults = load_recipe()
    before = defaults.trainer | defaults.as_dict() | yaml.safe_load(path.read_text(encoding="utf-8"))
    now, seal = recipe.trainer | recipe.as_dict(), read_manifest(checkpoint)
    free = _FREE_KEYS
    if "rows" in seal:
        free = _FREE_KEYS.union(CLUSTERING_KEYS, ["cluster_model", "cluster_assignments"])
        before, now = _without_known_places(before, seal), _without_known_places(now, seal)
    differ = [
        f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*before, *now} - free)
        if before.get(key) != now.get(key)
    ]
    batch_before = seal.get("global_batch", global_batch)
    if batch_before != global_batch:
        differ.append(
            f"global batch (per_device_train_batch_size x gradient_accumulation_steps x processes): "
            f"{batch_before} then, {global_batch} now"
        )
    if differ:
        raise ConfigError(
            f"{checkpoint}: was trained with another recipe ({'; '.join(differ)}); "
            "restore these keys, choose another output_dir, or start afresh"
        )


def _without_known_places(values: dict[str, Any], seal: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys, with `datasets` in one form that leaves out where data that the seal has digests of lies."""
    own = [item.name for item in dataclasses.fields(DataArguments)]
    datasets = []
    for spec in DataArguments(**{key: values[key] for key in own}).dataset_specs():
        entry = dataclasses.asdict(spec)
        if spec.name in seal["rows"]:
            del entry["data_path"], entry["image_folder"]
        if spec.name in seal.get("held_out_rows", {}):
            entry["eval_data_path"] = bool(spec.eval_data_path)
        datasets.append(entry)
    return values | dict.fromkeys(_DATA_KEYS) | {"datasets": datasets}
