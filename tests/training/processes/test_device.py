"""A run says so, instead of training on a CPU beside GPUs, or on one GPU of several."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import dry_run
from llava_mocle.training.processes.device import unseen_gpus, warn_of_idle_gpus
from llava_mocle.training.run import train

SIGNS = ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Sets what a machine shows of its GPUs, whichever this one has; torch sees none of them."""

    def write(smi: str = "exit 1", **variables: str) -> None:
        for name in SIGNS:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{smi}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return write


LISTED = "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'"


@pytest.mark.parametrize(
    ("smi", "variables", "sign"),
    [
        (LISTED, {}, "nvidia-smi lists 2"),
        ("exit 1", {"SLURM_GPUS_ON_NODE": "8"}, "SLURM_GPUS_ON_NODE is 8"),
        (LISTED, {"CUDA_VISIBLE_DEVICES": "0,1"}, "nvidia-smi lists 2"),
    ],
)
def test_gpus_that_torch_does_not_see(recipe_file, machine, tmp_path: Path, smi: str, variables: dict, sign: str):
    machine(smi, **variables)
    recipe = load_recipe(recipe_file())
    with pytest.raises(
        ConfigError, match=rf"this machine has GPUs \({sign}\), but torch {torch.__version__[:4]}.*use_cpu"
    ):
        train(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("smi", "variables"),
    [
        ("echo 'No devices found'", {}),
        ("exit 1", {"SLURM_GPUS_ON_NODE": "0"}),
        (LISTED, {"CUDA_VISIBLE_DEVICES": ""}),
        (LISTED, {"CUDA_VISIBLE_DEVICES": "-1", "SLURM_GPUS_ON_NODE": "8"}),
        (LISTED, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}),
        ("exit 1", {"CUDA_VISIBLE_DEVICES": "0"}),
    ],
)
def test_no_gpus_or_hidden_ones(recipe_file, machine, smi: str, variables: dict) -> None:
    machine(smi, **variables)
    assert unseen_gpus(load_recipe(recipe_file())) is None


def test_the_cpu_on_purpose(recipe_file, machine) -> None:
    machine(LISTED)
    assert train(load_recipe(recipe_file(max_steps=1), ["--use_cpu", "true"])).state.global_step == 1


@pytest.mark.parametrize(
    ("cuda", "expected"), [(None, "is a CPU build; .*TORCH=cuda"), ("12.8", r"\(CUDA 12.8\) sees none")]
)
def test_the_build_is_told(recipe_file, machine, monkeypatch, cuda: str | None, expected: str) -> None:
    machine(LISTED)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ConfigError, match=expected):
        train(load_recipe(recipe_file()))


def test_exit_codes_and_a_dry_run(recipe_file, machine, base: Path, caplog, capsys) -> None:
    machine(LISTED)
    recipe = str(recipe_file(model_config=str(base)))
    assert main(["train", recipe]) == 2
    assert "nvidia-smi lists 2" in capsys.readouterr().err
    assert "experts" in dry_run(load_recipe(recipe)).text
    assert "training would be refused here: this machine has GPUs" in caplog.text


@pytest.mark.parametrize(
    ("changes", "script"),
    [({}, "finetune_mocle.sh"), ({"adapter": "lora"}, "finetune_lora.sh"), ({"stage": "pretrain"}, "pretrain.sh")],
)
def test_idle_gpus_are_told(recipe_file, monkeypatch, caplog, changes: dict, script: str) -> None:
    path = recipe_file(**changes)
    recipe = load_recipe(path)

    def said(gpus: int, processes: int = 1, use_cpu: bool = False) -> str:
        caplog.clear()
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        with caplog.at_level(logging.WARNING):
            warn_of_idle_gpus(recipe, SimpleNamespace(use_cpu=use_cpu, world_size=processes))
        return caplog.text

    assert f"uses one of 8 GPUs; `bash scripts/{script} {path}`" in said(8)
    assert said(1) == said(8, processes=8) == said(8, use_cpu=True) == ""


def test_a_run_asks_about_idle_gpus(recipe_file, monkeypatch) -> None:
    def ask(*_) -> None:
        raise ConfigError("asked")

    monkeypatch.setattr("llava_mocle.training.processes.start.warn_of_idle_gpus", ask)
    with pytest.raises(ConfigError, match="asked"):
        train(load_recipe(recipe_file()))
