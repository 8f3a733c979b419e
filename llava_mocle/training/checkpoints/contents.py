"""What a checkpoint folder holds besides weights, and how the newest whole one is found."""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llava_mocle.adapter.config import BASE_RECORD
from llava_mocle.data.template_names import ALIASES
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.families.family import Family
from llava_mocle.io.files import write_text
from llava_mocle.model.folders import CLUSTERS_FOLDER, RECIPE_FILE
from llava_mocle.recipe.comparison import differences
from llava_mocle.recipe.keys import LEFT_TO_BASE
from llava_mocle.recipe.recipe import Recipe, load_recipe, write_recipe
from llava_mocle.training.checkpoints.manifest import checkpoint_facts, flaw

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

logger = logging.getLogger(__name__)

ABANDONED_FOLDER = "abandoned"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass
class CheckpointExtras:
    """What every `checkpoint-N` gets besides weights, so that it can be loaded without any other folder but its base.

    Attributes:
        data_identity: the digests of the data and of the clustering, for the manifest (see `data_identity`).
        base_record: the identity of the base, as JSON (see `BaseIdentity`).
    """

    recipe: Recipe
    family: Family
    cluster_model: "ClusterModel | None" = None
    data_identity: dict[str, Any] = field(default_factory=dict)
    base_record: str | None = None

    def write(self, folder: str | Path) -> None:
        """Write the resolved recipe, what the family needs, the base's identity and the cluster model into `folder`."""
        folder = Path(folder)
        write_recipe(self.recipe, folder / RECIPE_FILE)
        self.family.save(folder)
        if self.base_record is not None:
            write_text(folder / BASE_RECORD, self.base_record)
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


def check_same_recipe(checkpoint: Path, recipe: Recipe, global_batch: int | None) -> None:
    """Refuse to resume under a recipe that would change what is trained.

    How the global batch is split over processes, device batches and accumulation steps may change; its size may not.
    Rows and a cluster model whose digests the manifest has may lie elsewhere: `check_data_identity` compares them.

    Args:
        global_batch: samples of an optimizer step; None: not known, and not compared.

    Raises:
        ConfigError: names every key that differs, with both values.
    """
    path = checkpoint / RECIPE_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; this checkpoint cannot be resumed safely")
    # A key that is not in the file had its default.
    defaults = load_recipe()
    before = defaults.trainer | defaults.as_dict() | yaml.safe_load(path.read_text(encoding="utf-8"))
    manifest = checkpoint_facts(checkpoint)
    now = recipe.trainer | recipe.as_dict()
    before["version"] = ALIASES.get(before["version"], before["version"])
    now |= {key: before[key] for key in LEFT_TO_BASE if now[key] is None}  # what is left out stays as it was
    differ = differences(before, now, manifest.get("rows"), manifest.get("held_out_rows", ()))
    batch_before = manifest.get("global_batch", global_batch)
    if global_batch is not None and batch_before != global_batch:
        differ.append(
            f"global batch (per_device_train_batch_size x gradient_accumulation_steps x processes): "
            f"{batch_before} then, {global_batch} now"
        )
    if differ:
        raise ConfigError(
            f"{checkpoint}: was trained with another recipe ({'; '.join(differ)}); "
            "restore these keys, choose another output_dir, or start afresh"
        )
