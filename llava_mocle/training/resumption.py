"""Where a run goes on from, and how much of the optimizer's state can go with it."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from llava_mocle.errors import ConfigError
from llava_mocle.training.checkpoint import check_same_recipe, checkpoint_step, checkpoint_to_resume
from llava_mocle.training.deepspeed_state import UNIVERSAL_FOLDER, to_universal
from llava_mocle.training.distributed import on_main
from llava_mocle.training.hf_arguments import MocleTrainingArguments
from llava_mocle.training.recipe import Recipe
from llava_mocle.training.seal import read_seal

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
    """

    folder: Path
    optimizer: str
    engine_folder: Path
    finished: bool


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
    found = on_main(lambda: checkpoint_to_resume(args.resume, str(args.output_dir)))
    if found is None:
        return None
    check_same_recipe(found, recipe, global_batch(args))
    if args.stop_after_steps and checkpoint_step(found) >= args.stop_after_steps:
        raise ConfigError(f"stop_after_steps is {args.stop_after_steps}, and {found} is there already")
    kind = _optimizer_state(found, args)
    engine_folder = Path(str(args.output_dir), UNIVERSAL_FOLDER) if kind == "universal" else found
    state = json.loads((found / "trainer_state.json").read_text(encoding="utf-8"))
    resumption = Resumption(found, kind, engine_folder, finished=state["global_step"] >= state["max_steps"])
    if args.process_index == 0:
        logger.warning("resuming from %s", found)
    return resumption


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
