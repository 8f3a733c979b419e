"""What a library refuses late, or for want of a package, is refused before anything is loaded."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Trainer
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.recipe import rehearsal
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.rehearsal import rehearse
from llava_mocle.training import run

REFUSED = {
    "seed: -1": "seed is -1, expected a whole number from 0 to 4294967295",
    "data_seed: 4294967296": "data_seed is 4294967296",
    "optim: adamw_torch_4bit": "optim is 'adamw_torch_4bit': .*torchao",
    "optim: lomo": "optim is 'lomo'",
    "optim: galore_adamw": "optim is 'galore_adamw'",
    "optim: adamw_apex_fused": "optim is 'adamw_apex_fused'",
    "optim: schedule_free_adamw": "optim is 'schedule_free_adamw'",
    "optim_args: a": "optim_args is 'a'",
    "report_to: [tensorboard, wandb]": "report_to is 'wandb', which is not installed",
    "report_to: mlflow": "report_to is 'mlflow', which is not installed",
    "report_to: nothing": "report_to is 'nothing', expected auto, none, all, or a list of: .*wandb",
    "report_to: 'tensorboard,wandb'": "report_to is 'tensorboard,wandb', expected .* a list",
    "use_liger_kernel: true": "use_liger_kernel is true, and the package liger-kernel is not installed",
    "lr_scheduler_type: bend": "'bend'",
    "lr_scheduler_type: cosine_with_min_lr": "lr_scheduler_type is 'cosine_with_min_lr'",
    "lr_scheduler_kwargs: {nothing: 1}": "lr_scheduler_kwargs is {'nothing': 1}",
    "lr_scheduler_type: reduce_lr_on_plateau": "lr_scheduler_type",
    "weight_decay: -0.1": "weight_decay is -0.1, expected a number from 0",
    "num_train_epochs: 0": "num_train_epochs is 0, expected a number above 0",
    "save_total_limit: 0": "save_total_limit is 0",
    "warmup_ratio: 1.5": "warmup_ratio is 1.5, expected a number from 0 to 1",
    "torch_compile_backend: nothing": "torch_compile_backend is 'nothing'",
    "torch_compile_mode: nothing": "torch_compile_mode is 'nothing'",
    "dataloader_persistent_workers: true": "dataloader_persistent_workers is True",
    "dataloader_prefetch_factor: 2": "dataloader_prefetch_factor",
    "{dataloader_num_workers: 1, dataloader_multiprocessing_context: thread}": "dataloader_multiprocessing_context",
    "{gradient_checkpointing: true, gradient_checkpointing_kwargs: {nothing: 1}}": "activation_checkpointing_kwargs is",
    "{fp16: true, bf16: true}": "fp16",
    "fp16: true": "fp16 is true, and this run is on the CPU",
    "accelerator_config: nowhere.json": "accelerator_config is 'nowhere.json': .*No such file",
    "accelerator_config: {nothing: 1}": "accelerator_config",
    "ddp_backend: nothing": "ddp_backend",
    "save_strategy: best": "save_strategy is best, but eval_strategy is no",
    "{save_strategy: best, metric_for_best_model: eval_loss}": "save_strategy is best, but eval_strategy is no",
    "logging_steps: 2.5": "logging_steps",
    "debug: nothing": "debug",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_before_anything_is_loaded(recipe_file, tmp_path: Path, monkeypatch, capsys, text: str) -> None:
    def load(*args: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(run, "load_start", load)
    keys = yaml.safe_load(text)
    assert main(["train", str(recipe_file(**keys))]) == 2
    told = capsys.readouterr().err.strip()
    line = next(part for part in told.splitlines() if part.startswith("error: "))
    assert re.search(REFUSED[text], line), line
    assert not (tmp_path / "run").exists()


# What a machine has is this machine's; fp16 is another's, and a dry run may be for that.
SAME_WHEN_DRY = [text for text in REFUSED if not text.startswith("fp16")]


@pytest.mark.parametrize("text", SAME_WHEN_DRY)
def test_a_dry_run_refuses_what_a_run_refuses(recipe_file, capsys, text: str) -> None:
    assert main(["train", str(recipe_file(**yaml.safe_load(text))), "--dry-run"]) == 2
    assert re.search(REFUSED[text], capsys.readouterr().err)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad"])
@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt"])
def test_what_trainer_takes_is_taken(tmp_path: Path, optim: str, schedule: str) -> None:
    words = ["--output_dir", str(tmp_path), "--optim", optim, "--lr_scheduler_type", schedule]
    rehearse(load_recipe(None, words).training_arguments())


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)


OPTIONS = (
    *(("--optim", name.value) for name in OptimizerNames),
    *(("--lr_scheduler_type", name.value) for name in SchedulerType),
    ("--optim", "sgd", "--optim_args", "momentum=-1"),
    ("--optim", "adamw_torch", "--optim_args", "nothing=1"),
    ("--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 2}'),
    ("--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"lr_end": 1}'),
    ("--dataloader_num_workers", "1", "--dataloader_prefetch_factor", "3", "--dataloader_persistent_workers", "true"),
    ("--save_strategy", "best"),
    ("--debug", "tpu_metrics_debug"),
    ("--torch_compile", "true"),
)


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_trainer_refuses_nothing_that_was_taken(tmp_path: Path, words: tuple[str, ...]) -> None:
    """transformers' own Trainer, on a model of one linear, is what a run would meet after its weights are loaded."""
    recipe = load_recipe(None, ["--output_dir", str(tmp_path), "--data_path", "a", "--report_to", "none", *words])
    try:
        args = recipe.training_arguments()
        check_recipe(recipe, args)
    except ConfigError:
        return
    trainer = Trainer(model=Tiny(), args=args, train_dataset=[{"x": torch.zeros(2)}])
    trainer.create_optimizer_and_scheduler(10)
    trainer.get_train_dataloader()


def test_an_error_of_any_kind_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise AttributeError("no such\nthing")

    monkeypatch.setattr(rehearsal, "get_scheduler", broken)
    args = load_recipe(None, ["--output_dir", str(tmp_path), "--warmup_steps", "3"]).training_arguments()
    with pytest.raises(ConfigError, match=r"^warmup_steps is 3.*: AttributeError: no such thing$"):
        rehearse(args)
