"""The script that starts a recipe exists."""

from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.start_script import start_script

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "slurm", "script"),
    [
        ([], False, "scripts/finetune_mocle.sh"),
        (["--adapter", "lora"], False, "scripts/finetune_lora.sh"),
        (["--stage", "pretrain"], False, "scripts/pretrain.sh"),
        ([], True, "scripts/slurm/finetune_mocle.sbatch"),
        (["--stage", "pretrain"], True, "scripts/slurm/pretrain.sbatch"),
    ],
)
def test_each_kind_of_run_has_its_script(words: list[str], slurm: bool, script: str) -> None:
    assert start_script(load_recipe(None, words), slurm) == script
    assert (ROOT / script).is_file()
