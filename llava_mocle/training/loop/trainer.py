"""`transformers.Trainer`, changed only where MoCLE needs it."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from llava_mocle.adapter import ROUTING_INPUTS
from llava_mocle.data.sampler import GlobalBatchSampler
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.resume import global_batch
from llava_mocle.training.loop.divergence import FiniteTrainer
from llava_mocle.training.loop.preemption import Preemption, ValidationCutOff
from llava_mocle.training.loop.routing_log import RoutingLog
from llava_mocle.training.loop.text_only import run_projector_in_every_step
from llava_mocle.training.loop.validation import LossByGroup, pack_ids, sample_losses
from llava_mocle.training.processes.loader_workers import NamingIterator, NamingLoader, isolate_workers
from llava_mocle.training.setup.parameter_groups import parameter_groups


class MocleTrainer(FiniteTrainer):
    """Trains either stage.

    Adds to `Trainer`: batches grouped by modality and length, parameter groups with their own learning rates,
    validation loss a dataset and a cluster, routing statistics in the logs, and (`SavingTrainer`) checkpoints that load
    by themselves and appear whole or not at all; `FiniteTrainer` stops a run that has diverged.

    Args:
        dataset_names: dataset index -> name, for the logs.
        routing: statistics to log; None where nothing is routed.
        preemption: what tells the run to stop; a validation pass does not hold it up.
    """

    args: MocleTrainingArguments

    def __init__(
        self,
        *args: Any,
        dataset_names: list[str],
        routing: RoutingLog | None = None,
        preemption: Preemption | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.routing = routing
        self.preemption = preemption or Preemption()
        self.add_callback(self.preemption)
        self.validation_losses = LossByGroup(dataset_names)
        self._blank_image: Any = None

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self._blank_image is not None:
            self._blank_image.remove()
        model = self.accelerator.unwrap_model(self.model)
        llava = model.get_base_model() if isinstance(model, PeftModel) else model
        # After DeepSpeed has put its hooks on, so that its record of who runs when is the same on every rank.
        self._blank_image = run_projector_in_every_step(llava)
        options: Any = self.args.activation_checkpointing_kwargs or {}
        if self.args.activation_checkpointing and not options.get("use_reentrant"):
            # transformers makes every part's embeddings ask for a gradient, which non-reentrant checkpointing does not
            # need: the frozen tower would be recomputed and differentiated for nothing.
            llava.disable_input_require_grads()
        return prepared

    def get_train_dataloader(self) -> DataLoader:
        """`Trainer.get_train_dataloader`; see `isolate_workers`."""
        return isolate_workers(super().get_train_dataloader(), self.args.seed)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Likewise."""
        return isolate_workers(super().get_eval_dataloader(*args, **kwargs), self.args.seed)

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.get_batch_samples`; a loader that fails names the row (see `NamingIterator`)."""
        return super().get_batch_samples(NamingIterator(epoch_iterator, self.train_dataset), *args, **kwargs)

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        # A resumed epoch's loader is wrapped more deeply than `Trainer` and accelerate look for a sampler to tell.
        self._sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        batch = global_batch(self.args)
        if self.args.dataloader_drop_last and len(dataset) < batch:
            raise self._nothing_to_train(len(dataset), batch)
        self._sampler = GlobalBatchSampler(
            dataset.lengths,
            dataset.has_image,
            batch,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            grouped=self.args.group_by_modality_length,
            drop_last=self.args.dataloader_drop_last,
        )
        return self._sampler

    def _nothing_to_train(self, samples: int, batch: int) -> ConfigError:
        error = ConfigError(
            f"dataloader_drop_last is true, and {samples} samples make no whole global batch of {batch} "
            f"(per_device_train_batch_size {self.args.per_device_train_batch_size} x gradient_accumulation_steps "
            f"{self.args.gradient_accumulation_steps} x {self.args.world_size} processes), so no step would be taken; "
            "leave it out (the last batch is filled up without labels), or make the batch smaller"
        )
        error.on_every_rank = True
        return error

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

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except ValidationCutOff:
            self.preemption.stop(self.control)  # type: ignore[has-type]
            super()._maybe_log_save_evaluate(*args, **kwargs)  # saves, and does nothing else a second time

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, None, None]:
        """One validation batch: its losses go to `LossByGroup`, its mean back to `Trainer`."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, counts = sample_losses(model(**self._model_inputs(inputs)).logits, inputs["labels"])
        ids = [pack_ids(inputs.get(key), losses) for key in ("dataset_ids", "cluster_ids")]
        every = self.accelerator.gather_for_metrics((losses, counts, *ids))
        self.validation_losses.add(*every)
        return losses.sum() / counts.sum().clamp(min=1), None, None

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s loop, with the token-weighted loss a dataset and a cluster among its metrics.

        Raises:
            UserError: a held-out row cannot be loaded (see `NamingIterator`).
        """
        self.validation_losses.reset()
        output = super().evaluation_loop(NamingLoader(dataloader), *args, **kwargs)
        output.metrics.update(self.validation_losses.metrics())
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding the routing statistics since the last training log."""
        if self.routing is not None and "loss" in logs:
            logs = {**logs, **self.routing.pop(self.accelerator.reduce)}
        super().log(logs, start_time)
