"""Where a run goes on from, and how much of the optimizer's state can go with it."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from transformers import TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model.folders import RECIPE_FILE
from llava_mocle.recipe.keys import LEFT_TO_BASE
from llava_mocle.recipe.recipe import Recipe, recipe_text, trainer_defaults
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, unused_keys
from llava_mocle.recipe.validation_metrics import full_name
from llava_mocle.training.checkpoints.contents import (
    ABANDONED_FOLDER,
    check_same_recipe,
    checkpoint_step,
    newest_checkpoint,
    set_aside_after,
)
from llava_mocle.training.checkpoints.engine_state import UNIVERSAL_FOLDER, load_engine, to_universal
from llava_mocle.training.checkpoints.manifest import FINISHED_FILE, checkpoint_facts, flaw, read_manifest
from llava_mocle.training.processes.group import on_main

logger = logging.getLogger(__name__)

# Keys that say where one start begins and ends, and nothing of the run.
_ONLY_THIS_START = {"resume", "stop_after_steps"}


@dataclass(frozen=True)
class Resumption:
    """What to go on from.

    Attributes:
        folder: a whole checkpoint, or `output_dir` if a finished run has left its result there and no checkpoint of its
            last step.
        optimizer: what becomes of the optimizer's state: "as_saved"; "universal" (converted to this number of
            processes); or "afresh" (only weights and schedule are restored).
        engine_folder: where DeepSpeed finds its state.
        finished: the checkpoint has taken all steps of the run; only its result may still have to be written.
        start: how the run was begun, see `start_name`.
        is_result: `output_dir` holds the whole result, so nothing has to be written any more.
    """

    folder: Path
    optimizer: str
    engine_folder: Path
    finished: bool
    start: str = "auto"
    is_result: bool = False


def optimizer_kind(args: MocleTrainingArguments) -> str:
    """`torch` if every process holds the whole optimizer, `zeroN` if DeepSpeed shares it out."""
    if not args.deepspeed:
        return "torch"
    return f"zero{args.hf_deepspeed_config.config.get('zero_optimization', {}).get('stage', 0)}"


def global_batch(args: MocleTrainingArguments) -> int:
    """Samples of one optimizer step over all processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def find_resumption(recipe: Recipe, args: MocleTrainingArguments) -> Resumption | None:
    """Find the checkpoint to go on from, the same on all ranks, before anything is loaded; None to start anew.

    A universal checkpoint is made here, on the main process.

    Raises:
        CheckpointError: `resume` names a folder that is no whole checkpoint, or is `never` where there is one.
        ConfigError: the checkpoint is another recipe's, or at or beyond `stop_after_steps`.
    """
    output_dir = Path(str(args.output_dir))
    found, is_result = on_main(lambda: _place_to_resume(recipe, args, output_dir))
    if found is None:
        return None
    _check_goes_on(found, recipe, global_batch(args))
    state = TrainerState.load_from_json(str(found / TRAINER_STATE_NAME))
    start = checkpoint_facts(found).get("start", "auto") if args.resume == "auto" else start_name(args.resume)
    if state.global_step >= state.max_steps:
        return Resumption(found, "as_saved", found, finished=True, start=start, is_result=is_result)
    kind = _optimizer_state(found, args)
    engine_folder = Path(str(args.output_dir), UNIVERSAL_FOLDER) if kind == "universal" else found
    if args.process_index == 0:
        logger.warning("resuming from %s", found)
    if kind == "universal":
        _make_universal(found, engine_folder, args)
    return Resumption(found, kind, engine_folder, finished=False, start=start)


def _place_to_resume(recipe: Recipe, args: MocleTrainingArguments, output_dir: Path) -> tuple[Path | None, bool]:
    """What to go on from (see `Resumption.folder`), None to start anew; and whether `output_dir` holds the result."""
    checkpoint = checkpoint_to_resume(args.resume, output_dir)
    facts = read_manifest(output_dir, FINISHED_FILE)
    if not facts or args.resume == "never" or flaw(output_dir, FINISHED_FILE) is not None:
        return checkpoint, False
    if checkpoint is None:
        is_ours = _is_same_command(recipe, args, output_dir)
        return (output_dir if is_ours else None), is_ours
    named = args.resume != "auto" and facts.get("start") != start_name(args.resume)
    if named or facts["step"] < checkpoint_step(checkpoint) or checkpoint.parent.resolve() != output_dir.resolve():
        return checkpoint, False
    if checkpoint_step(checkpoint) < facts["step"]:
        return output_dir, True
    # Chosen by another metric than is asked for now: it is written again, of the checkpoints that are there.
    return checkpoint, facts.get("chosen_by") == chosen_by(args)


def chosen_by(args: MocleTrainingArguments) -> str | None:
    """The metric that chooses the checkpoint whose weights become the result; None: they are those of the last step."""
    return full_name(str(args.metric_for_best_model)) if args.load_best_model_at_end else None


def _is_same_command(recipe: Recipe, args: MocleTrainingArguments, output_dir: Path) -> bool:
    """Whether a result without a checkpoint beside it is that of this very command.

    There is nothing that another command could go on from: it trains anew, and replaces the result.
    """
    texts = (output_dir / RECIPE_FILE).read_text(), recipe_text(recipe)
    then, now = (trainer_defaults() | yaml.safe_load(text) for text in texts)
    left_out = {key for key in LEFT_TO_BASE if now.get(key) is None}  # the result's recipe says what was taken
    compared = {*then, *now} - _ONLY_THIS_START - left_out - unused_keys(now["adapter"])
    changed = sorted(key for key in compared if then.get(key) != now.get(key))
    if changed or read_manifest(output_dir, FINISHED_FILE).get("global_batch") != global_batch(args):
        what = ", ".join(changed) or "the global batch"
        logger.warning("%s: holds the result of another command (%s), which this run replaces", output_dir, what)
        return False
    return True


def checkpoint_to_go_on_from(recipe: Recipe, output_dir: Path) -> Path | None:
    """What `find_resumption` would go on from, for one process that starts nothing; the global batch is not compared.

    Raises:
        CheckpointError, ConfigError: as `find_resumption`.
    """
    found = checkpoint_to_resume(recipe.stage.resume, output_dir)
    if found is not None:
        _check_goes_on(found, recipe, None)
    return found


def may_go_on(resume: str, output_dir: Path) -> bool:
    """Whether a start may go on from something, as far as the names of files say. Nothing is checked, or raised."""
    if resume not in ("auto", "never"):
        return True
    if not output_dir.is_dir():
        return False
    written = any(checkpoint_step(place) >= 0 for place in output_dir.iterdir())
    return written or (resume == "auto" and (output_dir / FINISHED_FILE).is_file())


def _check_goes_on(checkpoint: Path, recipe: Recipe, batch: int | None) -> None:
    check_same_recipe(checkpoint, recipe, batch)
    stop = recipe.stage.stop_after_steps
    if stop and TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step >= stop:
        raise ConfigError(f"stop_after_steps is {stop}, and {checkpoint} is there already")


def start_name(resume: str) -> str:
    """How a run is begun, for its checkpoints' manifests: "auto", "never", or the checkpoint that `resume` names."""
    return resume if resume in ("auto", "never") else str(Path(resume).resolve())


def checkpoint_to_resume(resume: str, output_dir: Path) -> Path | None:
    """The checkpoint to go on from.

    Args:
        resume: "auto" (the newest in `output_dir`, if any), "never" (none), or a checkpoint folder. A run that began
            at a named folder and is started again goes on from its own newest checkpoint.
        output_dir: the run's folder.

    Raises:
        CheckpointError: `resume` is never and `output_dir` has a checkpoint (nothing is overwritten); the named folder
            is not a whole checkpoint; or it lies elsewhere while `output_dir` holds another run's checkpoints.
    """
    newest = newest_checkpoint(output_dir)
    if resume == "auto":
        return newest
    if resume == "never":
        if newest is not None:
            raise CheckpointError(
                f"{output_dir}: holds {newest.name}, and `resume` is never; --resume auto goes on from it; to begin "
                "afresh, choose another output_dir, or remove it"
            )
        return None
    folder = Path(resume)
    if newest is not None and read_manifest(newest).get("start") == start_name(resume):
        logger.warning("going on from %s, which was reached from %s; remove it to start there again", newest, folder)
        return newest
    trouble = flaw(folder)
    if trouble is not None:
        raise CheckpointError(
            f"{folder}: no whole checkpoint to resume from ({trouble}); give another checkpoint-N folder, auto or never"
        )
    if newest is not None and folder.resolve().parent != output_dir.resolve():
        raise CheckpointError(
            f"{output_dir}: holds {newest.name}, which was not reached from {folder}; choose another output_dir, or "
            "remove it"
        )
    return folder


def abandon_later_checkpoints(resumption: Resumption, args: MocleTrainingArguments) -> None:
    """If the run goes back to an earlier checkpoint of its own `output_dir`, move the later ones into `abandoned/`.

    All ranks call it, when nothing can refuse the run any more.
    """
    folder = resumption.folder.resolve()
    named = args.resume != "auto" and start_name(args.resume) == str(folder)
    if named and args.process_index == 0 and folder.parent == Path(str(args.output_dir)).resolve():
        later = set_aside_after(folder)
        if later:
            names = ", ".join(path.name for path in later)
            logger.warning("moved to %s: %s", Path(str(args.output_dir), ABANDONED_FOLDER), names)


def _optimizer_state(checkpoint: Path, args: MocleTrainingArguments) -> str:
    manifest, kind = read_manifest(checkpoint), optimizer_kind(args)
    before, world_size = manifest.get("optimizer", kind), manifest.get("world_size", args.world_size)
    if before == kind and (kind == "torch" or world_size == args.world_size):
        return "as_saved"
    changed = f"{before} on {world_size} processes then, {kind} on {args.world_size} now"
    convertible = before.startswith("zero") and kind.startswith("zero")
    if convertible and args.universal_checkpoint:
        return "universal"
    if args.process_index == 0:
        hint = "; --universal_checkpoint true converts it" if convertible else ""
        logger.warning(
            "%s: %s. Weights and learning-rate schedule go on; the optimizer's moments start afresh%s",
            checkpoint, changed, hint,
        )  # fmt: skip
    return "afresh"


def _make_universal(checkpoint: Path, folder: Path, args: MocleTrainingArguments) -> None:
    """Convert on the main process while the others wait, and set it in DeepSpeed's configuration."""
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            to_universal(checkpoint, folder)
    args.hf_deepspeed_config.config.setdefault("checkpoint", {})["load_universal"] = True


def restore_engine(resumption: Resumption, engine: Any) -> None:
    """Put the checkpoint's weights and optimizer state into a DeepSpeed engine, unless the optimizer starts afresh.

    A universal checkpoint is removed afterwards, as it was made for this start alone.
    """
    if resumption.optimizer == "afresh":
        return
    load_engine(engine, resumption.engine_folder)
    if resumption.optimizer == "universal":
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            shutil.rmtree(resumption.engine_folder)


def restore_schedule(checkpoint: Path, schedule: Any, optimizer: Any) -> None:
    """Put the learning-rate schedule back, and the rates it had reached into the optimizer.

    A schedule sets the rates after each step; without this, the first resumed step would have those of step 1.
    """
    schedule.load_state_dict(torch.load(checkpoint / SCHEDULER_NAME, weights_only=True))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
