"""Everything that a recipe names is looked up before weights are loaded: the same checks for a run and a dry run."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.constants import HF_HUB_OFFLINE

from llava_mocle.clustering.assign import check_table
from llava_mocle.errors import CheckpointError, ClusterModelError, ConfigError, UserError
from llava_mocle.io.paths import looked_for, why_missing
from llava_mocle.model.folders import find_folder, is_original
from llava_mocle.model.projector import projector_file
from llava_mocle.recipe.deepspeed_config import read_deepspeed
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.checkpoints.resume import checkpoint_to_go_on_from, may_go_on
from llava_mocle.training.setup.clusters import assignments_path, cluster_model_as_said, needs_clusters
from llava_mocle.training.setup.meta_model import meta_model
from llava_mocle.training.setup.model import check_base, joined_base, refuse_adapter
from llava_mocle.training.setup.warm_start import check_warm_start, find_warm_start


@dataclass
class Findings:
    """What was looked up.

    Attributes:
        problems: what is missing or does not fit, for certain.
        unchecked: what cannot be looked up here, and why.
        checkpoint: what a run would go on from.
    """

    problems: list[UserError] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    checkpoint: Path | None = None

    def refuse(self) -> None:
        """
        Raises:
            UserError: the only problem; or a `ConfigError` that lists all of them.
        """
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise ConfigError(f"{len(self.problems)} things to mend:\n  " + "\n  ".join(map(str, self.problems)))

    def note(self, check: Callable[[], object]) -> None:
        """Make a check; what it raises becomes a problem."""
        try:
            check()
        except UserError as error:
            self.problems.append(error)

    def add(self, problem: str, unsure: object = False) -> None:
        """Add a problem, or, where it is not certain here, something that could not be checked."""
        if unsure:
            self.unchecked.append(problem)
        else:
            self.problems.append(ConfigError(problem))


def look_up(recipe: Recipe, dry: bool = False) -> Findings:
    """Look up every path that the recipe names, and what else can be known without weights.

    Args:
        dry: for a dry run. Nothing is downloaded, a model on the hub may be missing here, and with `model_config`
            all weights may be. What a run goes on from is looked up as well, and whether that was trained on this base;
            a run does that on its own.
    """
    found = Findings()
    _look_up_model(recipe, found, dry)
    found.note(lambda: _look_up_data(recipe, found))
    if recipe.model.warm_start:
        found.note(lambda: _look_up_warm_start(recipe, found, dry))
    if needs_clusters(recipe):
        found.note(lambda: _look_up_clusters(recipe, found, dry))
    found.note(lambda: read_deepspeed(recipe.trainer.get("deepspeed")))
    output_dir = recipe.trainer.get("output_dir")
    trouble = _why_not_writable(output_dir)
    if trouble is not None:
        found.add(trouble)
    elif dry:
        found.note(lambda: _look_up_checkpoint(recipe, found, Path(str(output_dir))))
    if dry:
        found.note(lambda: check_base(recipe, found.checkpoint))
    return found


def _look_up_model(recipe: Recipe, found: Findings, dry: bool) -> None:
    source = recipe.model
    if not source.model_name_or_path:
        missing = "model_name_or_path is not set; give a LLaVA folder, or a language model and vision_tower"
        found.add(missing, unsure=dry and source.model_config)
        return
    if source.vision_tower and joined_base(recipe) is not None:
        return  # its parts were joined before, and are not needed any more
    for key in ("model_name_or_path", "vision_tower"):
        if name := getattr(source, key):
            _look_up_folder(key, name, found, dry=dry, stands_in=source.model_config)
    base = Path(source.model_name_or_path)
    if base.is_dir() and (not source.vision_tower or is_original(base)):
        found.note(lambda: refuse_adapter(base))
    if projector := source.pretrain_mm_mlp_adapter:
        try:
            projector_file(Path(projector))
        except CheckpointError as error:
            found.add(f"pretrain_mm_mlp_adapter: {error}", unsure=dry and source.model_config)


def _look_up_folder(key: str, name: str, found: Findings, *, dry: bool, stands_in: str | None) -> None:
    """A model's folder, or its name on the hub; `stands_in` is the config.json that a dry run has in its place."""
    on_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if on_hub and not dry and not HF_HUB_OFFLINE:
        return  # fetched when it is loaded
    try:
        find_folder(name, "a model folder", download=not dry)
    except CheckpointError as error:
        if dry and not stands_in and key == "model_name_or_path":
            return  # the dry run needs its config.json, and says so
        found.add(f"{key}: {error}", unsure=dry and (on_hub or stands_in))


def _look_up_data(recipe: Recipe, found: Findings) -> None:
    for spec in recipe.data.dataset_specs():
        named = (("data_path", os.path.isfile, "file"), ("image_folder", os.path.isdir, "folder"))
        for key, is_right, kind in (*named, ("eval_data_path", os.path.isfile, "file")):
            path = getattr(spec, key)
            if not path:
                continue
            trouble = why_missing(path)
            if trouble is None and not is_right(path):
                trouble = f"is no {kind}"
            if trouble is not None:
                found.add(f"dataset {spec.name!r}: {key} {path}: {trouble}{looked_for(path)}")


def _look_up_clusters(recipe: Recipe, found: Findings, dry: bool) -> None:
    folder = recipe.cluster.cluster_model
    remedy = f"`llava-mocle cluster --recipe {recipe.source or 'RECIPE'}` writes it"
    if folder and (trouble := why_missing(folder)) is not None:
        raise ClusterModelError(f"cluster_model {folder}: {trouble}{looked_for(folder)}; {remedy}")
    model = cluster_model_as_said(recipe, encoder=not dry)
    if dry and "cluster_encoder" in recipe.given:
        found.unchecked.append(
            f"cluster_encoder: whether {recipe.cluster.cluster_encoder} has the weights that the cluster model was "
            "made with"
        )
    table = assignments_path(recipe)
    if (trouble := why_missing(table)) is not None:
        raise ConfigError(f"cluster_assignments {table}: {trouble}{looked_for(table)}; {remedy}")
    check_table(table, [spec.name for spec in recipe.data.dataset_specs()], model)


def _look_up_warm_start(recipe: Recipe, found: Findings, dry: bool) -> None:
    folder = recipe.model.warm_start
    if may_go_on(recipe.stage.resume, Path(str(recipe.trainer.get("output_dir")))):
        return  # it is not read again
    if why_missing(str(folder)) is not None and dry and recipe.model.model_config:
        found.add(f"warm_start {folder}: no such folder", unsure=True)
        return
    start = find_warm_start(recipe)
    try:
        model = meta_model(recipe)
    except UserError as error:  # if it is a mistake, it is reported with the base, or when that is loaded
        found.add(f"warm_start {folder}: whether its weights fit ({error})", unsure=True)
        return
    check_warm_start(start, model)


def _why_not_writable(output_dir: str | None) -> str | None:
    if not output_dir:
        return "output_dir is not set; it is where checkpoints and the result go"
    path = Path(output_dir)
    trouble = why_missing(path)
    if trouble is not None:
        for parent in path.absolute().parents:
            if why_missing(parent) is None:
                if not parent.is_dir():
                    return f"output_dir {output_dir}: {parent} is a file, expected a folder"
                if not os.access(parent, os.W_OK | os.X_OK):
                    return f"output_dir {output_dir}: no permission to make a folder in {parent}"
                break
        return None if trouble == "no such file or directory" else f"output_dir {output_dir}: {trouble}"
    if not path.is_dir():
        return f"output_dir {output_dir}: is a file, expected a folder{looked_for(path)}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"output_dir {output_dir}: no permission to write there{looked_for(path)}"
    return None


def _look_up_checkpoint(recipe: Recipe, found: Findings, output_dir: Path) -> None:
    found.checkpoint = checkpoint_to_go_on_from(recipe, output_dir)
