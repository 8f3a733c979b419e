"""Saving and resuming: checkpoints that appear whole or not at all, hold what is trained, and load by themselves."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from llava_mocle.errors import CheckpointError
from llava_mocle.io.files import make_readable
from llava_mocle.model.folders import CLUSTERS_FOLDER
from llava_mocle.model.load import load_projector, save_projector
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.contents import (
    CheckpointExtras,
    clear_staging,
    newest_checkpoint,
    publish,
    staging_dir,
)
from llava_mocle.training.checkpoints.engine_state import load_engine, save_engine, trainable_state
from llava_mocle.training.checkpoints.resume import Resumption, global_batch, optimizer_kind, start_name
from llava_mocle.training.processes.loader_workers import is_worker_gone


class SavingTrainer(Trainer):
    """`Trainer` with checkpoints of this project's contract.

    Args:
        extras: what goes into every checkpoint besides weights.
        base_path: the base folder a stage-1 checkpoint names.
        resumption: what the run goes on from, if anything.
    """

    args: MocleTrainingArguments

    def __init__(
        self,
        *args: Any,
        extras: CheckpointExtras,
        base_path: str | Path,
        resumption: Resumption | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.extras = extras
        self.base_path = base_path
        self.resumption = resumption
        self._staging = False

    # ------ saving

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(staging_dir(folder)) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            clear_staging(folder)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if is_worker_gone(error):  # which has nothing to do with what was being written
                raise
            raise self._not_written(folder, name, error) from error
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == staging_dir(folder):
            self.state.best_model_checkpoint = str(folder / Path(best).name)
        if self.args.should_save:
            try:
                self._publish(folder, name)
            except Exception as error:
                if is_worker_gone(error):
                    raise
                raise self._not_written(folder, name, error) from error
        # Nobody leaves before it is in place: a launcher may end the whole run when the first rank does.
        self.accelerator.wait_for_everyone()

    def _publish(self, folder: Path, name: str) -> None:
        if self.state.best_model_checkpoint:
            self.state.save_to_json(str(staging_dir(folder) / name / TRAINER_STATE_NAME))
        publish(
            folder,
            name,
            step=self.state.global_step,
            optimizer=optimizer_kind(self.args),
            world_size=self.args.world_size,
            global_batch=global_batch(self.args),
            start=self.resumption.start if self.resumption else start_name(self.args.resume),
            **self.extras.content,
        )
        rotate_checkpoints(
            str(folder),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _not_written(self, folder: Path, name: str, error: Exception) -> CheckpointError:
        newest = newest_checkpoint(folder)
        kept = f"{newest.name} is whole" if newest else "there is no earlier one"
        free = shutil.disk_usage(folder).free
        clear_staging(folder)  # room for the next attempt
        return CheckpointError(
            f"{folder}: {name} could not be written ({type(error).__name__}: {error}); {kept}, and "
            f"{free / 2**20:,.0f} MiB are free. If the disk or a quota is full, make room or lower save_total_limit; "
            "the same command goes on from there"
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """`Trainer.save_model`; under DeepSpeed only what is trained is gathered, not the frozen model."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
            return
        model = self.accelerator.unwrap_model(self.model)
        self._save(output_dir, state_dict=trainable_state(model, writer=self.args.should_save))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = output_dir if output_dir is not None else self.args.output_dir
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel):
            model.save_pretrained(folder, state_dict=state_dict)
        else:
            save_projector(model, folder, self.base_path, state_dict)
        self.extras.write(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_engine(self.model_wrapped, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def save_result(self) -> None:
        """The finished run's model and state, into `output_dir` itself.

        Raises:
            CheckpointError: they cannot be written; the last checkpoint holds the same.
        """
        try:
            self.save_model()
            self.save_state()
            if self.args.should_save:
                self._share_result(Path(str(self.args.output_dir)))
        except OSError as error:
            raise self._not_written(Path(str(self.args.output_dir)), "the result", error) from error

    def _share_result(self, folder: Path) -> None:
        """The result's files for all who may read the folder; what else lies beside them is not ours to change."""
        for place in folder.iterdir():
            if place.is_file() or place.name == CLUSTERS_FOLDER:
                with suppress(PermissionError):  # a file of somebody else's
                    make_readable(place)

    def restore_finished(self) -> None:
        """In place of training: what a checkpoint that has taken all steps holds."""
        assert self.resumption is not None
        self._load_from_checkpoint(str(self.resumption.folder))
        self.state = TrainerState.load_from_json(str(self.resumption.folder / TRAINER_STATE_NAME))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:
            return super()._finalize_training(*args, **kwargs)
        # Stopped early: `Trainer` would load the best model, and with save_total_limit 1 remove what was just saved.
        limit, best = self.args.save_total_limit, self.args.load_best_model_at_end
        self.args.save_total_limit, self.args.load_best_model_at_end = None, False
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = limit, best

    # ------ resuming

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        place = super()._init_training_state(max_steps, *args, **kwargs)
        # How often to log, save and evaluate is this command's to say, not the checkpoint's.
        self.state.compute_steps(self.args, max_steps)
        return place

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        resumption = self.resumption
        if resumption is None or not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resumption.optimizer == "afresh":
            self._load_from_checkpoint(str(resumption.folder))
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resumption.optimizer != "afresh":
            load_engine(self.model_wrapped, resumption.engine_folder)
        if resumption.optimizer == "universal":
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(resumption.engine_folder)
        self._load_schedule(resumption.folder)
        return prepared

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.resumption is not None and self.resumption.optimizer == "afresh":
            self._load_schedule(Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_schedule(self, checkpoint: Path) -> None:
        self.lr_scheduler.load_state_dict(torch.load(checkpoint / SCHEDULER_NAME, weights_only=True))
        # A schedule sets the rates at its next step; the step before that is to have them too.
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_best_model(self) -> None:
        if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(target, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_projector(target, resume_from_checkpoint)
