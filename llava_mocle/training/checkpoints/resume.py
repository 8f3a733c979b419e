"""Where a run goes on from, and how much of the optimizer's state can go with it."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.contents import (
    ABANDONED_FOLDER,
    check_same_recipe,
    checkpoint_step,
    newest_checkpoint,
    set_aside_after,
)
from llava_mocle.training.checkpoints.engine_state import UNIVERSAL_FOLDER, to_universal
from llava_mocle.training.checkpoints.manifest import flaw, read_seal
from llava_mocle.training.processes.group import on_main

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumption:
    """What to go on from.

    Attributes:
        folder: a whole checkpoint.
        optimizer: "as_saved"; "universal" (converted to this number of processes); or "afresh" (only weights and
            schedule go on).
        engine_folder: where DeepSpeed finds its state.
        finished: the run has taken all its steps; what may be left is to write its result.
        start: how the run was begun, see `start_name`.
    """

    folder: Path
    optimizer: str
    engine_folder: Path
    finished: bool
    start: str = "auto"


def optimizer_kind(args: MocleTrainingArguments) -> str:
    """`torch` where every process holds the whole optimizer, `zeroN` where DeepSpeed shares it out."""
    if not args.deepspeed:
        return "torch"
    return f"zero{args.hf_deepspeed_config.config.get('zero_optimization', {}).get('stage', 0)}"


def global_batch(args: MocleTrainingArguments) -> int:
    """Samples of one optimizer step over all processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def find_resumption(recipe: Recipe, args: MocleTrainingArguments) -> Resumption | None:
    """Decide, once for all ranks, before anything is loaded.

    Raises:
        CheckpointError: `resume` names a folder that is no whole checkpoint, or is `never` where there is one.
        ConfigError: the checkpoint is another recipe's, or at or beyond `stop_after_steps`.
    """
    found = on_main(lambda: checkpoint_to_resume(args.resume, Path(str(args.output_dir))))
    if found is None:
        return None
    check_same_recipe(found, recipe, global_batch(args))
    if args.stop_after_steps and checkpoint_step(found) >= args.stop_after_steps:
        raise ConfigError(f"stop_after_steps is {args.stop_after_steps}, and {found} is there already")
    kind = _optimizer_state(found, args)
    engine_folder = Path(str(args.output_dir), UNIVERSAL_FOLDER) if kind == "universal" else found
    state = json.loads((found / "trainer_state.json").read_text(encoding="utf-8"))
    finished = state["global_step"] >= state["max_steps"]
    start = read_seal(found).get("start", "auto") if args.resume == "auto" else start_name(args.resume)
    resumption = Resumption(found, kind, engine_folder, finished, start)
    if args.process_index == 0:
        logger.warning("resuming from %s", found)
    return resumption


def start_name(resume: str) -> str:
    """How a run is begun, for its checkpoints' seals: "auto", "never", or the checkpoint that `resume` names."""
    return resume if resume in ("auto", "never") else str(Path(resume).resolve())


def checkpoint_to_resume(resume: str, output_dir: Path) -> Path | None:
    """Where to go on from: `resume` is auto, never, or a checkpoint folder.

    A named folder is where the run begins; started again, it goes on from the newest checkpoint that came of that.

    Raises:
        CheckpointError: `never` on a folder that has checkpoints (nothing is overwritten), a folder that is none, or
            one from elsewhere for an `output_dir` that holds another run's.
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
    if newest is not None and read_seal(newest).get("start") == start_name(resume):
        logger.warning("%s came of a start from %s; remove it to start from there once more", newest, folder)
        return newest
    trouble = flaw(folder)
    if trouble is not None:
        raise CheckpointError(
            f"{folder}: no whole checkpoint to resume from ({trouble}); give another checkpoint-N folder, auto or never"
        )
    if newest is not None and folder.resolve().parent != output_dir.resolve():
        raise CheckpointError(
            f"{output_dir}: holds {newest.name}, which did not come of {folder}; choose another output_dir, or remove "
            "it"
        )
    return folder


def leave_other_course(resumption: Resumption, args: MocleTrainingArguments) -> None:
    """Where the run goes back in its own `output_dir`: move the later checkpoints into `abandoned/`.

    Called once nothing can refuse the run any more, on all ranks.
    """
    folder = resumption.folder.resolve()
    named = args.resume != "auto" and start_name(args.resume) == str(folder)
    if named and args.process_index == 0 and folder.parent == Path(str(args.output_dir)).resolve():
        later = set_aside_after(folder)
        if later:
            names = ", ".join(path.name for path in later)
            logger.warning("moved to %s: %s", Path(str(args.output_dir), ABANDONED_FOLDER), names)


def _optimizer_state(checkpoint: Path, args: MocleTrainingArguments) -> str:
    seal, kind = read_seal(checkpoint), optimizer_kind(args)
    before, world_size = seal.get("optimizer", kind), seal.get("world_size", args.world_size)
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


def prepare_universal(resumption: Resumption, args: MocleTrainingArguments) -> None:
    """Convert on the main process, and tell DeepSpeed's configuration; the other ranks wait."""
    if resumption.optimizer != "universal":
        return
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            shutil.rmtree(resumption.engine_folder, ignore_errors=True)
            to_universal(resumption.folder, resumption.engine_folder)
    # The conversion is for this start alone; `SavingTrainer` removes it once it is loaded.
    args.hf_deepspeed_config.config.setdefault("checkpoint", {})["load_universal"] = True
