"""The best checkpoint of a run that goes on or has ended: of those that are there, the one with the lowest loss.

`Trainer` keeps it in its state while it runs. What it kept does not hold any more if the run goes on with another
`metric_for_best_model`, if its folder was moved, or if that checkpoint was removed.
"""

from pathlib import Path

from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.recipe.validation_metrics import full_name


def recall_best(state: TrainerState, args: MocleTrainingArguments) -> None:
    """Set the state's best metric, step and checkpoint to those of this command's metric and folder.

    What `Trainer` has kept stays if it is what its log says and the checkpoint is there. Otherwise the checkpoints in
    `output_dir` are compared by the losses in the log; of equal ones, the first is the best.
    """
    if not args.metric_for_best_model:
        return
    losses = losses_by_step(state, args.metric_for_best_model)
    output_dir = Path(str(args.output_dir))
    kept = {step: loss for step, loss in losses.items() if _folder(output_dir, step).is_dir()}
    step = state.best_global_step
    holds = step in losses and losses[step] == state.best_metric == min(losses.values())
    if not holds or (args.load_best_model_at_end and step not in kept):
        step = min(kept, key=lambda step: (kept[step], step)) if kept else None
        state.best_metric, state.best_global_step = (kept[step] if step is not None else None), step
    state.best_model_checkpoint = str(_folder(output_dir, step)) if step is not None and step in kept else None


def losses_by_step(state: TrainerState, metric: str) -> dict[int, float]:
    """Step -> the metric's value there, as logged."""
    name = full_name(metric)
    return {int(entry["step"]): float(entry[name]) for entry in state.log_history if name in entry and "step" in entry}


def _folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
