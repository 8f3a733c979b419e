"""The shell scripts, run as a user would: rows checked, instructions clustered, trained, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mocle.model.load import load_model

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *words: str, processes: int = 1) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable, "NPROC": str(processes), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPTS / script), *words]
    result = subprocess.run(
        command, env=environment, cwd=SCRIPTS.parent, capture_output=True, text=True, timeout=400, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-9000:]
    return result


def first_loss(folder: Path) -> float:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return next(entry["loss"] for entry in history if "loss" in entry)


@pytest.mark.slow
def test_finetune_mocle_checks_clusters_and_trains(recipe_file, tmp_path: Path) -> None:
    recipe = recipe_file(cluster_model=str(tmp_path / "fresh_clusters"))
    result = run("finetune_mocle.sh", str(recipe), "--max_steps", "2", "--lora_r", "2")
    assert (tmp_path / "fresh_clusters" / "assignments.parquet").is_file()
    assert "pictures" in result.stdout
    loaded = load_model(tmp_path / "run")
    assert loaded.recipe["lora_r"] == 2
    assert loaded.cluster_model.num_clusters == 2
    text = run("finetune_mocle.sh", str(recipe), "--dry-run", "--model_config", loaded.recipe["model_name_or_path"])
    assert "experts" in text.stdout


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "mocle"])
def test_two_processes_start_from_the_loss_of_one(recipe_file, tmp_path: Path, adapter: str) -> None:
    # The first loss does not depend on the routing: every B starts at zero.
    one, two = tmp_path / "one", tmp_path / "two"
    recipe = str(recipe_file(max_steps=3, eval_strategy="steps", eval_steps=3))
    run(
        "finetune_lora.sh", recipe, "--adapter", adapter, "--output_dir", str(one), "--per_device_train_batch_size", "8"
    )
    words = ["--adapter", adapter, "--output_dir", str(two), "--per_device_train_batch_size", "4"]
    run("finetune_lora.sh", recipe, *words, processes=2)
    # float32 sums in another order.
    assert first_loss(two) == pytest.approx(first_loss(one), abs=1e-5)
    assert load_model(two).kind == "adapter"
