"""`transformers.Trainer`, changed where MoCLE needs it."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llava_mocle.adapter import ROUTING_INPUTS
from llava_mocle.adapter.in_place import is_saved
from llava_mocle.io.progress import shows_bars
from llava_mocle.model.load import LoadedModel
from llava_mocle.model.projector import load_projector
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.best import recall_best
from llava_mocle.training.checkpoints.contents import CheckpointExtras, checkpoint_step
from llava_mocle.training.checkpoints.resume import (
    Resumption,
    abandon_later_checkpoints,
    restore_engine,
    restore_schedule,
    start_name,
)
from llava_mocle.training.checkpoints.writer import CheckpointWriter
from llava_mocle.training.loop.balance import BalanceLoss
from llava_mocle.training.loop.callbacks import ConsoleLines, ConsoleProgress, OwnBest, OwnIntervals, StopAfterSteps
from llava_mocle.training.loop.divergence import DivergenceCheck
from llava_mocle.training.loop.gate_check import warn_of_gates
from llava_mocle.training.loop.held_out import held_out_pass
from llava_mocle.training.loop.preemption import Preemption, ValidationCutOff
from llava_mocle.training.loop.routing_log import RoutingLog
from llava_mocle.training.loop.sampling import make_sampler
from llava_mocle.training.loop.supervision import POSITIONS, Supervision
from llava_mocle.training.loop.validation import LossByGroup, clusters_of
from llava_mocle.training.processes.loader_workers import isolate_workers, name_failed_rows
from llava_mocle.training.setup.data import TrainingData
from llava_mocle.training.setup.parameter_groups import parameter_groups

logger = logging.getLogger(__name__)

# Private names of `transformers.Trainer` that this file overrides or reads, and what each of them gives us. A test
# holds them against the installed transformers, which may rename them without notice.
TRAINER_INTERNALS = (
    ("_finalize_training", "a run keeps the checkpoint of its last step"),
    ("_get_output_dir", "checkpoints are written to the staging folder first"),
    ("_get_train_sampler", "global batches are grouped by modality and length"),
    ("_load_best_model", "the best stage-1 checkpoint, which holds the projector alone, can be loaded"),
    ("_load_from_checkpoint", "a stage-1 checkpoint, which holds the projector alone, can be resumed"),
    ("_load_optimizer_and_scheduler", "a run can go on with a fresh optimizer on another number of processes"),
    ("_maybe_log_save_evaluate", "divergence is noticed, and a signal can cut a validation pass off"),
    ("_prepare_for_training", "DeepSpeed's state is restored, and batches without an image train the connector"),
    ("_prepare_inputs", "a validation batch is moved to the device"),
    ("_run_epoch", "the sampler knows its epoch, also when a run goes on in the middle of one"),
    ("_save_checkpoint", "a checkpoint appears whole or not at all, and never with numbers that are not finite"),
    ("_save_optimizer_and_scheduler", "DeepSpeed's state is saved without the frozen weights"),
    ("_total_loss_scalar", "the loss of a step that fp16 skipped does not stay in the run's mean loss"),
)


class MocleTrainer(Trainer):
    """Trains the stage that the recipe names.

    Beyond `Trainer`: batches grouped by modality and length, parameter groups with their own learning rates, validation
    loss by dataset and by cluster, and routing statistics in the logs. A `CheckpointWriter` writes checkpoints that
    appear whole or not at all and load by themselves; a `DivergenceCheck` stops a run whose numbers are not finite.

    Args:
        recipe: kept in every checkpoint.
        args: the recipe's training arguments.
        loaded: the base, with its family.
        data: what to train and validate on.
        model: the base with the stage's trainable parts in it.
        preemption: knows whether the run is to stop; a stop does not wait for the end of a validation pass.
        resumption: the checkpoint to go on from, if any.
    """

    args: MocleTrainingArguments
    _total_loss_scalar: float

    def __init__(
        self,
        recipe: Recipe,
        args: MocleTrainingArguments,
        loaded: LoadedModel,
        data: TrainingData,
        model: nn.Module,
        preemption: Preemption,
        resumption: Resumption | None = None,
    ) -> None:
        stop = [StopAfterSteps(args.stop_after_steps)] if args.stop_after_steps else []
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self.supervision = Supervision(base, args.supervised_head, talks=args.process_index == 0)
        if self.supervision.head is None and not recipe.trainer.get("per_device_eval_batch_size"):
            args.per_device_eval_batch_size = args.per_device_train_batch_size  # logits of all tokens take the memory
        held_out = data.validation
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=None if held_out is None else held_out_pass(held_out, args, len(data.train)),
            data_collator=self.supervision.collator(data.train.encoder.collator()),
            compute_loss_func=self.supervision.loss_function,
            callbacks=[OwnIntervals(), OwnBest(), *stop, preemption],
        )
        # Some classes of transformers' say that their loss takes no number of supervised tokens. All that can be
        # trained here hand it on, and without it a loss would be a mean of the micro-batches' means.
        self.model_accepts_loss_kwargs = True
        for theirs in (ProgressCallback, PrinterCallback):
            self.remove_callback(theirs)
        self.add_callback(ConsoleProgress if shows_bars() and not args.disable_tqdm else ConsoleLines)
        self.data, self.family, self.preemption, self.resumption = data, loaded.family, preemption, resumption
        extras = CheckpointExtras(
            recipe,
            loaded.family,
            cluster_model=data.cluster_model,
            data_identity=data.identity,
            base_record=loaded.base_record,
        )
        start = resumption.start if resumption else start_name(args.resume)
        self.checkpoints = CheckpointWriter(args, extras, loaded.base_path, start)
        self.divergence = DivergenceCheck(args, self.accelerator.reduce)
        routed = isinstance(model, PeftModel) and recipe.adapter.adapter != "lora"
        self.routing = RoutingLog(model.base_model) if routed else None
        balanced = routed and recipe.adapter.balance_loss_weight > 0
        everywhere = bool(args.average_tokens_across_devices)
        self.balance = BalanceLoss(model.base_model, self.accelerator, everywhere) if balanced else None
        self.validation_losses = LossByGroup(data.dataset_names, 0 if held_out is None else clusters_of(held_out))

    def take_steps(self) -> None:
        """Train until the last step, or until an early stop. With a `resumption`, the first step is the one after it.

        If `resumption` is of a finished run, the model and the state of its result are restored, and no step is taken.

        Raises:
            Preempted: a signal came, to any rank. If steps have been taken, a checkpoint was written.
            UserError: a row cannot be loaded, a checkpoint cannot be written, or the run has diverged.
        """
        resumption = self.resumption
        if self.preemption.requested(self.args.device):
            raise self.preemption.error(None, max(0, checkpoint_step(resumption.folder)) if resumption else 0)
        if resumption is not None:
            abandon_later_checkpoints(resumption, self.args)
        if resumption is not None and resumption.finished:
            self._restore_finished(resumption)
            return
        self.checkpoints.unmark_result()
        self.preemption.has_steps = True
        try:
            start = str(resumption.folder) if resumption else None
            name_failed_rows(lambda: self.train(resume_from_checkpoint=start), self.data.train, self.data.validation)
        except ValidationCutOff:  # it was the validation before the first step, so there is nothing new to save
            raise self.preemption.error(None, self.state.global_step) from None
        if self.data.train.skipped_images:
            logger.warning("%d rows were skipped: their images could not be read", self.data.train.skipped_images)
        if self.preemption.stopped:
            self.accelerator.wait_for_everyone()
            steps = self.state.global_step
            raise self.preemption.error(self.checkpoints.output_dir / f"checkpoint-{steps}", steps)

    def _restore_finished(self, resumption: Resumption) -> None:
        """Have the state of a run that has taken all its steps, and the weights of its result."""
        folder = source = resumption.folder
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if resumption.is_result:
            source = self.checkpoints.output_dir
            logger.warning("%s: holds the result of this run, which has all its steps; nothing is left to do", source)
        else:
            recall_best(self.state, self.args)
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                source = Path(self.state.best_model_checkpoint)
            logger.warning("%s has all its steps; writing the result from %s", folder, source.name)
            self._warn_without_best()
        self._load_trained(source)

    def _warn_without_best(self) -> None:
        if self.args.load_best_model_at_end and not self.state.best_model_checkpoint and self.is_world_process_zero():
            logger.warning(
                "load_best_model_at_end: no checkpoint has a %s, so the result is the model of the last step",
                self.args.metric_for_best_model,
            )

    def save_result(self) -> None:
        """Write the finished run's model and state into `output_dir`, and say what its gates do.

        Raises:
            CheckpointError: they cannot be written; the last checkpoint holds the same.
            DivergenceError: a number is not finite; nothing is written.
        """
        self.divergence.before_saving(self.state.global_step, self.model.parameters())
        with self.checkpoints.result():
            self.save_model()
            self.save_state()
        self.checkpoints.mark_result(self.state)
        if self.routing is not None:
            warn_of_gates(self.routing.tuner, shown=self.is_world_process_zero())

    def get_train_dataloader(self) -> DataLoader:
        """`Trainer`'s, with workers that outlive a signal (see `loader_workers`)."""
        return isolate_workers(super().get_train_dataloader(), self.args.seed)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """`Trainer`'s, with workers that outlive a signal (see `loader_workers`)."""
        return isolate_workers(super().get_eval_dataloader(*args, **kwargs), self.args.seed)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        self._sampler = make_sampler(dataset, self.args)
        return self._sampler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        # `Trainer` and accelerate do not find the sampler inside the loader of an epoch that is resumed in the middle.
        self._sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `args.optim` over `parameter_groups`."""
        if self.optimizer is None:  # type: ignore[has-type]
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(parameter_groups(model, self.args), **options)
        return self.optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        resumption = self.resumption if self.is_deepspeed_enabled else None
        if resumption is None:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        else:
            named = self.accelerator.unwrap_model(self.model).named_parameters()
            # DeepSpeed's state holds what is trained alone.
            fixed = any(is_saved(name, parameter) and not parameter.requires_grad for name, parameter in named)
            if fixed or resumption.optimizer == "afresh":
                self._load_from_checkpoint(str(resumption.folder))
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
            restore_engine(resumption, self.model_wrapped)
            restore_schedule(resumption.folder, self.lr_scheduler, self.optimizer)
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        # After DeepSpeed has put its hooks on, so that its record of which module runs when is the same on every rank.
        self.family.run_connector_in_every_step(base)
        options: Any = self.args.activation_checkpointing_kwargs or {}
        if self.args.activation_checkpointing and not options.get("use_reentrant"):
            # transformers makes the embeddings of tower and language model ask for a gradient. Non-reentrant
            # checkpointing does not need it, and the frozen tower would be recomputed and differentiated for nothing.
            base.disable_input_require_grads()
        return prepared

    def _model_inputs(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """What the model takes of a batch, and the places of its supervised tokens."""
        routed = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        left_out = {POSITIONS} if routed else {POSITIONS, *ROUTING_INPUTS}
        return {key: value for key, value in inputs.items() if key not in left_out}, inputs.get(POSITIONS)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Tensor | int | None]:
        """`Trainer.get_batch_samples`; the balance loss also counts the step's samples."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        if self.balance is not None and batches:
            self.balance.start_step(batches)
        return batches, count

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.compute_loss`, a mean over the supervised tokens of the global batch, and the balance loss."""
        inputs, positions = self._model_inputs(inputs)
        labels = inputs["labels"]
        with self.supervision.around(labels, positions):
            result = super().compute_loss(model, inputs, *args, **kwargs)
        if self.balance is not None and model.training:
            result = result + self.balance.of(labels)
        if self.routing is not None and model.training:
            self.routing.add()
        return result

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """One validation batch, whose losses go to `LossByGroup`. `Trainer` gets none, and gathers none."""
        inputs = self._prepare_inputs(inputs)
        taken, positions = self._model_inputs(inputs)
        labels = taken.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, counts = self.supervision.of_samples(model, taken, labels, positions)
        self.validation_losses.add(losses, counts, inputs.get("dataset_ids"), inputs.get("cluster_ids"))
        return None, None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s loop, with the token-weighted loss by dataset and by cluster among its metrics."""
        self.validation_losses.reset()
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics.update(self.validation_losses.metrics(self.accelerator.reduce))
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the experts' rate and the routing statistics, then look for numbers that are not finite.

        The base class logs the rate of the optimizer's first group, which may be the projector's.
        """
        if "learning_rate" in logs and self.optimizer is not None:
            rates = {group.get("name"): group["lr"] for group in self.optimizer.param_groups}
            logs = {**logs, "learning_rate": rates.get("experts", logs["learning_rate"])}
        if self.routing is not None and "loss" in logs:
            logs = {**logs, **self.routing.pop(self.accelerator.reduce)}
        if self.balance is not None and "loss" in logs:
            logs = {**logs, **self.balance.pop()}
        super().log(logs, start_time)
        self.divergence.after_log(self.state.global_step, logs)

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        skipped = self.args.fp16 and self.accelerator.optimizer_step_was_skipped
        self.divergence.after_step(self.state.global_step, tr_loss, grad_norm, skipped)
        before = self._total_loss_scalar
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        except ValidationCutOff:
            self.preemption.stop(self.control)  # type: ignore[has-type]
            # The first call has logged, and `stop` switches validation off, so this one only saves.
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        if not math.isfinite(self._total_loss_scalar):
            # The loss of a step that fp16 skipped. `Trainer` empties the sum by subtracting it from itself, and inf -
            # inf is nan, which would stay in it for good.
            self._total_loss_scalar = before
            tr_loss.zero_()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.divergence.before_saving(self.state.global_step, self.model.parameters())
        with self.checkpoints.checkpoint(self.state):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, and what a model folder needs besides, into `output_dir` (default: the run's)."""
        model = self.accelerator.unwrap_model(self.model)
        folder, step = output_dir or self.checkpoints.output_dir, self.state.global_step
        if output_dir is None and self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            step = checkpoint_step(Path(self.state.best_model_checkpoint))
        self.checkpoints.write_model(model, folder, self.is_deepspeed_enabled, self.state, step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            self.checkpoints.write_engine(self.model_wrapped, self.lr_scheduler, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        limit, best = self.args.save_total_limit, self.args.load_best_model_at_end
        # With save_total_limit 1, `Trainer` would now remove the last checkpoint, which says how far the run has come.
        self.args.save_total_limit = None
        if self.state.global_step < self.state.max_steps:
            self.args.load_best_model_at_end = False  # stopped early
        else:
            self._warn_without_best()
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = limit, best

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.resumption is not None and self.resumption.optimizer == "afresh":
            restore_schedule(Path(checkpoint), self.lr_scheduler, self.optimizer)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        self._load_trained(Path(str(self.state.best_model_checkpoint)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_trained(Path(resume_from_checkpoint), model)

    def _load_trained(self, folder: Path, model: nn.Module | None = None) -> None:
        """Put the trained weights of a checkpoint or a result into the model."""
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(target, PeftModel):
            # Not `Trainer`'s way, which takes the checkpoints below a result for its adapters.
            target.load_adapter(str(folder), target.active_adapters[0], is_trainable=True)
        else:
            load_projector(target, folder)
