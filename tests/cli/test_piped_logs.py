"""What commands write when nobody watches a terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401


@pytest.fixture
def piped(tmp_path: Path):
    """Run a command, its output piped; returns what it wrote to both."""

    def run(*words: str) -> str:
        # As a shell has them, without what pytest or another test has set.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_HUB_DIS", "TQDM"))}
        environment["LLAVA_MOCLE_CACHE"] = str(tmp_path / "cache")
        found = subprocess.run(
            [sys.executable, "-m", "llava_mocle.cli.main", *words],
            capture_output=True, env=environment, timeout=300,
        )  # fmt: skip
        text = (found.stdout + found.stderr).decode()
        assert found.returncode == 0, text
        return text

    return run


@pytest.mark.slow
def test_piped_logs_hold_plain_lines(
    recipe_file,  # noqa: F811
    encoder: Path,  # noqa: F811
    base: Path,  # noqa: F811
    tmp_path: Path,
    piped,
) -> None:
    """A whole run through the commands: no carriage return, no cursor code, and nothing of DeepSpeed."""
    recipe = str(
        recipe_file(
            cluster_model=str(tmp_path / "clusters"), cluster_encoder=str(encoder), eval_strategy="steps",
            eval_steps=2, save_strategy="steps", save_steps=2, logging_steps=1, disable_tqdm=False,
        )
    )  # fmt: skip
    model = str(tmp_path / "run")
    texts = {
        "check": piped("data", "check", recipe),
        "cluster": piped("cluster", "--recipe", recipe),
        "train": piped("train", recipe),
        "eval": piped("eval", "--model", model, "--recipe", recipe, "--output", str(tmp_path / "eval")),
        "collapse": piped("collapse", "--model", model, "--cluster", "0", "--output", str(tmp_path / "c0")),
    }
    texts["build"] = piped(
        "build", "--language-model", str(base.parent / "llama"), "--vision-tower", str(base.parent / "clip"),
        "--output", str(tmp_path / "base"),
    )  # fmt: skip
    for name, text in texts.items():
        assert "\r" not in text, name
        assert "\x1b" not in text, name
        assert "accelerator" not in text, name  # DeepSpeed's remark on the machine
    assert "step     4  held out:" in texts["train"]
    assert "pictures: 5 of 5 questions (100%) in" in texts["eval"]
