"""Writes checkpoints: aside first, then moved into place, so that one appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from llava_mocle.errors import CheckpointError
from llava_mocle.io.files import make_readable
from llava_mocle.model.folders import ADAPTER_CONFIG, CLUSTERS_FOLDER, PROJECTOR_CONFIG, PROJECTOR_WEIGHTS, RECIPE_FILE
from llava_mocle.model.projector import save_projector
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.card import write_run_card
from llava_mocle.training.checkpoints.contents import CheckpointExtras, newest_checkpoint
from llava_mocle.training.checkpoints.engine_state import saved_state
from llava_mocle.training.checkpoints.manifest import FINISHED_FILE, flush, write_manifest
from llava_mocle.training.checkpoints.resume import chosen_by, global_batch, optimizer_kind
from llava_mocle.training.processes.loader_workers import is_worker_gone

STAGING_FOLDER = ".incomplete"
# What a result consists of, besides what can be had from anywhere else.
_RESULT_FILES = (
    ADAPTER_CONFIG, SAFETENSORS_WEIGHTS_NAME, PROJECTOR_CONFIG, PROJECTOR_WEIGHTS, RECIPE_FILE, TRAINER_STATE_NAME,
)  # fmt: skip


class CheckpointWriter:
    """Writes a run's checkpoints and its result. All processes call each method together.

    Args:
        args: the run's arguments; `output_dir` is where checkpoints go.
        extras: what goes into every checkpoint besides weights.
        base_path: the base folder, which a stage-1 checkpoint names.
        start: how the run was begun (see `resume.start_name`).

    Attributes:
        folder: where `checkpoint-N` is to be written now: the staging folder inside `checkpoint`, else `output_dir`.
    """

    def __init__(
        self, args: MocleTrainingArguments, extras: CheckpointExtras, base_path: str | Path, start: str
    ) -> None:
        self.args, self.extras, self.base_path, self.start = args, extras, base_path, start
        self.output_dir = self.folder = Path(str(args.output_dir))
        self.staging = self.output_dir / STAGING_FOLDER

    @contextmanager
    def checkpoint(self, state: TrainerState) -> Iterator[None]:
        """Inside the block `checkpoint-N` is written below `folder`; after it, the checkpoint is moved into place.

        Args:
            state: the trainer's; its `global_step` is N. A best checkpoint is recorded in it under its final place.

        Raises:
            CheckpointError: the checkpoint could not be written; the earlier ones are as they were.
        """
        name = f"checkpoint-{state.global_step}"
        if self.args.should_save:
            self._clear_staging()  # a run that was killed while it wrote may have left something
        PartialState().wait_for_everyone()
        with self._reporting(name):
            self.folder = self.staging
            try:
                yield
            finally:
                self.folder = self.output_dir
        PartialState().wait_for_everyone()
        best = state.best_model_checkpoint
        if best and Path(best).parent == self.staging:
            state.best_model_checkpoint = str(self.output_dir / Path(best).name)
        if self.args.should_save:
            with self._reporting(name):
                self._publish(name, state)
        # Nobody leaves before it is in place: a launcher may end the whole run when the first process does.
        PartialState().wait_for_everyone()

    def _publish(self, name: str, state: TrainerState) -> None:
        source, target = self.staging / name, self.output_dir / name
        if state.best_model_checkpoint:
            state.save_to_json(str(source / TRAINER_STATE_NAME))
        make_readable(source)
        write_manifest(source, **self._facts(state))
        if target.exists():
            os.replace(target, source.with_name(f"{name}.before"))
        os.replace(source, target)
        flush(self.output_dir)
        self._clear_staging()
        rotate_checkpoints(
            str(self.output_dir),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=state.best_model_checkpoint,
            use_mtime=True,
        )

    def _facts(self, state: TrainerState) -> dict[str, Any]:
        """What a manifest says beside its files."""
        return {
            "step": state.global_step,
            "optimizer": optimizer_kind(self.args),
            "world_size": self.args.world_size,
            "global_batch": global_batch(self.args),
            "start": self.start,
            **self.extras.data_identity,
        }

    def write_model(self, model: nn.Module, folder: str | Path, sharded: bool, state: TrainerState, step: int) -> None:
        """Write what is trained, the extras and README.md.

        Args:
            model: without the wrappers of DDP or DeepSpeed.
            folder: made where it is missing.
            sharded: the processes share the parameters out, so each is gathered first. The frozen ones are not.
            state: the trainer's, for README.md.
            step: after which the weights were as they are: not the last one, where the best ones were loaded.
        """
        weights = saved_state(model, writer=self.args.should_save) if sharded else None
        if not self.args.should_save:
            return
        if isinstance(model, PeftModel):
            model.save_pretrained(str(folder), state_dict=weights)
        else:
            save_projector(model, folder, self.base_path, weights)
        self.extras.write(folder)
        # After PEFT, which leaves an empty form there.
        extras = self.extras
        family = extras.family.name
        write_run_card(Path(folder), extras.recipe, self.base_path, family, extras.cluster_model, model, state, step)

    def write_engine(self, engine: Any, schedule: Any, folder: str | Path) -> None:
        """Write DeepSpeed's state, each process its share and no frozen weights, and the learning-rate schedule."""
        engine.save_checkpoint(str(folder), exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(folder) / SCHEDULER_NAME)

    @contextmanager
    def result(self) -> Iterator[None]:
        """Inside the block the finished run's model and state are written into `output_dir` itself.

        Raises:
            CheckpointError: they cannot be written; the last checkpoint holds the same.
        """
        self.unmark_result()
        with self._reporting("the result"):
            yield
            if not self.args.should_save:
                return
            for place in self.output_dir.iterdir():
                # Only the result's own files: what else lies in the folder keeps its modes.
                if place.is_file() or place.name == CLUSTERS_FOLDER:
                    with suppress(PermissionError):  # another user's file
                        make_readable(place)

    def mark_result(self, state: TrainerState) -> None:
        """Say that what `output_dir` holds is the whole result of a finished run.

        Args:
            state: the trainer's, after the last step.

        Raises:
            CheckpointError: that cannot be written.
        """
        if not self.args.should_save:
            return
        files = [name for name in _RESULT_FILES if (self.output_dir / name).is_file()]
        facts = self._facts(state) | {"chosen_by": chosen_by(self.args)}
        with self._reporting(FINISHED_FILE):
            write_manifest(self.output_dir, manifest_name=FINISHED_FILE, files=files, **facts)

    def unmark_result(self) -> None:
        """From here on, what `output_dir` holds is no longer the result of a finished run."""
        if self.args.should_save:
            (self.output_dir / FINISHED_FILE).unlink(missing_ok=True)

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Turn whatever goes wrong inside the block into an error that says what is kept and how much room there is."""
        try:
            yield
        except Exception as error:
            if is_worker_gone(error):  # this error can be raised anywhere, and has nothing to do with writing
                raise
            newest = newest_checkpoint(self.output_dir)
            kept = f"{newest.name} is whole" if newest else "there is no earlier one"
            free = shutil.disk_usage(self.output_dir).free
            self._clear_staging()  # room for the next attempt
            raise CheckpointError(
                f"{self.output_dir}: {what} could not be written ({type(error).__name__}: {error}); {kept}, and "
                f"{free / 2**20:,.0f} MiB are free. If the disk or a quota is full, make room or lower "
                "save_total_limit; the same command goes on from there"
            ) from error

    def _clear_staging(self) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
