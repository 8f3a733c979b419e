"""`transformers.Trainer`, changed only where MoCLE needs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from llava_mocle.data.sampler import LengthGroupedModalitySampler
from llava_mocle.model.load import load_projector, save_projector
from llava_mocle.training.checkpoint import CheckpointExtras, publish, staging_dir
from llava_mocle.training.hf_arguments import MocleTrainingArguments
from llava_mocle.training.parameter_groups import parameter_groups
from llava_mocle.training.routing_log import RoutingLog
from llava_mocle.training.validation import LossByGroup, pack_ids, sample_losses

ROUTING_INPUTS = ("cluster_ids", "dataset_ids")


class MocleTrainer(Trainer):
    """Trains either stage.

    Adds to `Trainer`: batches grouped by modality and length, parameter groups with their own learning rates,
    validation loss a dataset and a cluster, routing statistics in the logs, and checkpoints that load by themselves
    and appear whole or not at all.

    Args:
        extras: what goes into every checkpoint besides weights.
        base_path: the base folder a stage-1 checkpoint names.
        dataset_names: dataset index -> name, for the logs.
        routing: statistics to log; None where nothing is routed.
    """

    args: MocleTrainingArguments

    def __init__(
        self,
        *args: Any,
        extras: CheckpointExtras,
        base_path: str | Path,
        dataset_names: list[str],
        routing: RoutingLog | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.extras = extras
        self.base_path = base_path
        self.routing = routing
        self.validation_losses = LossByGroup(dataset_names)
        self._staging = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        if not self.args.group_by_modality_length:
            return super()._get_train_sampler(dataset)
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedModalitySampler(dataset.lengths, dataset.has_image, group, seed=seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `args.optim` over `parameter_groups`."""
        if self.optimizer is None:  # type: ignore[has-type]
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(parameter_groups(model, self.args), **options)
        return self.optimizer

    def _model_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            return dict(inputs)
        return {key: value for key, value in inputs.items() if key not in ROUTING_INPUTS}

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.compute_loss`, which averages over the supervised tokens of the global batch."""
        result = super().compute_loss(model, self._model_inputs(inputs), *args, **kwargs)
        if self.routing is not None and model.training:
            self.routing.add()
        return result

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """One validation batch: its losses go to `LossByGroup`, its mean back to `Trainer`."""
        inputs = self._prepare_inputs(inputs)
        # The labels go along: with them a batch without images still runs tower and projector on every rank.
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, counts = sample_losses(model(**self._model_inputs(inputs)).logits, inputs["labels"])
        ids = [pack_ids(inputs.get(key), losses) for key in ("dataset_ids", "cluster_ids")]
        every = self.accelerator.gather_for_metrics((losses, counts, *ids))
        self.validation_losses.add(*every)
        return losses.sum() / counts.sum().clamp(min=1), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s loop, with the token-weighted loss a dataset and a cluster among its metrics."""
        self.validation_losses.reset()
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics.update(self.validation_losses.metrics())
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding the routing statistics since the last training log."""
        if self.routing is not None and "loss" in logs:
            logs = {**logs, **self.routing.pop()}
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(staging_dir(folder)) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial))
            if self.state.best_global_step:
                best = folder / f"checkpoint-{self.state.best_global_step}"
                self.state.best_model_checkpoint = str(best)
                self.state.save_to_json(str(staging_dir(folder) / name / TRAINER_STATE_NAME))
            publish(folder, name)
            rotate_checkpoints(
                str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(target, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_projector(target, resume_from_checkpoint)
