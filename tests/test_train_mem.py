"""LLaVA's scripts, started under LLaVA's name: stage 1 in one process, its LoRA under the deepspeed launcher in two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from tests.llava_lists import FINETUNE, FINETUNE_LORA, PRETRAIN, with_paths
from tests.model import parts
from tests.processes import free_port
from tests.tiny_run import mix  # noqa: F401

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "llava_mocle" / "train_mem.py"
# What a tiny model on two cores needs, after the list as LLaVA has it: wandb is not installed, and 48 rows are few.
SMALL = {
    "report_to": "none", "max_steps": 2, "per_device_train_batch_size": 4, "model_max_length": 256,
    "dataloader_num_workers": 1, "disable_tqdm": True,
}  # fmt: skip
SMALL_WORDS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


def run(command: list[str], cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, env=environment | variables, cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )


def test_as_a_script_it_takes_its_own_folder_off_the_module_path(tmp_path: Path) -> None:
    # The launcher starts it by its path, and Python then puts llava_mocle/ first on the module path: its rooms would be
    # found as modules of other names. A loader's worker runs the file again, as `__mp_main__`.
    probe = (
        "import runpy, sys; sys.path[0] = sys.argv[1]; runpy.run_path(sys.argv[2], run_name='__mp_main__'); "
        "from importlib.util import find_spec; print(find_spec('training'), find_spec('llava_mocle').origin)"
    )
    result = run([sys.executable, "-c", probe, str(SCRIPT.parent), str(SCRIPT)], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["None", str(ROOT / "llava_mocle" / "__init__.py")]


@pytest.mark.slow
def test_an_error_has_the_commands_exit_code_and_no_traceback() -> None:
    result = run([sys.executable, str(SCRIPT), "--local_rank=0", *FINETUNE])
    assert result.returncode == 2
    assert result.stderr.startswith("error: lora_enable is not True: without LoRA")
    assert "Traceback" not in result.stderr


def test_a_command_line_becomes_a_recipe(tmp_path: Path) -> None:
    words = [*FINETUNE_LORA, "--adapter", "mocle", "--cluster_model", "k4", "--resolve", str(tmp_path / "mocle.yaml")]
    assert main(["train", "--as-llava", *words]) == 0
    recipe = load_recipe(tmp_path / "mocle.yaml")
    assert (recipe.adapter.adapter, recipe.adapter.lora_target_modules) == ("mocle", None)
    assert recipe.data.image_aspect_ratio == "pad"


def stage_1_rows(folder: Path, rows: Path) -> Path:
    """Captions: the rows that have a picture."""
    path = folder / "captions.json"
    path.write_text(json.dumps([row for row in json.loads(rows.read_text()) if "image" in row]))
    return path


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_llavas_own_lists_train_stage_1_and_then_its_lora_on_two_processes(tmp_path: Path, mix: list[dict]) -> None:  # noqa: F811
    rows = Path(mix[0]["data_path"])
    given = {
        "model_name_or_path": parts.save_language_model(tmp_path / "llama"),
        "vision_tower": parts.save_clip(tmp_path / "clip"),
        "image_folder": mix[0]["image_folder"],
    }
    one, two = tmp_path / "pretrain", tmp_path / "lora"
    words = with_paths(PRETRAIN, **given, data_path=stage_1_rows(tmp_path, rows), output_dir=one)
    result = run([sys.executable, "-m", "llava_mocle.train_mem", *words, *SMALL_WORDS], DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr[-6000:]
    assert "tf32 does nothing on this machine" in result.stderr
    assert (one / "mm_projector.safetensors").is_file()
    assert len(losses(one)) == 2

    projector = one / "mm_projector.safetensors"
    words = with_paths(FINETUNE_LORA, **given, data_path=rows, output_dir=two, pretrain_mm_mlp_adapter=projector)
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "2"]
    launcher += ["--master_port", str(free_port()), str(SCRIPT)]
    result = run([*launcher, *words, *SMALL_WORDS], DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    assert result.stderr.count("training LLaVA's single LoRA") == 1
    loaded = load_model(two)
    expected = {"adapter": "lora", "lora_r": 128, "lora_alpha": 256, "lora_dropout": 0.05, "mm_projector_lr": 2e-5}
    assert {key: loaded.recipe[key] for key in expected} == expected
    assert loaded.recipe["deepspeed"] == str(ROOT / "zero_configs" / "zero3.json")
    config = json.loads((two / "adapter_config.json").read_text())
    names = {site.rpartition(".")[2] for site in config["sites"]}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(losses(two)) == 2
