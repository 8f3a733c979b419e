"""README.md of a run, a checkpoint and a collapsed cluster: what it says is true, and its code runs."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from peft import PeftModel

from llava_mocle.adapter.card import CARD_FILE, public_name
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.manifest import flaw
from llava_mocle.training.run import train


def read_card(folder: Path) -> tuple[dict, str, list[str]]:
    """The metadata, the text after it, and the blocks of Python."""
    _, head, text = (folder / CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text, re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_code(folder: Path, blocks: list[str], monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    return names


@pytest.mark.parametrize("adapter", ["mocle", "cluster", "dataset", "lora"])
def test_the_card_of_a_run(adapter: str, recipe_file, mix, base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    changes = {"adapter": adapter, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    train(load_recipe(recipe_file(**changes, eval_strategy="steps", eval_steps=2)))
    run = tmp_path / "run"
    capsys.readouterr()
    for folder in (run, run / "checkpoint-2"):
        metadata, text, blocks = read_card(folder)
        assert metadata["base_model"] == "base"
        assert metadata["library_name"] == "peft"
        assert adapter in metadata["tags"]
        assert "More Information Needed" not in text
        assert str(tmp_path.parent) not in text
        assert "| rank, alpha | 4, 8 |" in text
        assert "| data | pictures (1 x), sums (2 x) |" in text
        assert "| steps | 2 of 2 |" in text
        assert re.search(r"\| held-out loss \| [\d.]+ at step 2 \(pictures [\d.]+, sums [\d.]+\) \|", text)
        assert ("K = 2, of instructions embedded by tiny-encoder" in text) == (adapter in ("mocle", "cluster"))
        assert ("E = 3 and a universal one, top 1" in text) == (adapter == "mocle")
        shutil.copy(Path(mix[0]["image_folder"], "3.png"), folder / "image.jpg")
        run_code(folder, blocks, monkeypatch)
        assert capsys.readouterr().out.strip()
    exported = run / "plain_lora"
    metadata, text, blocks = read_card(exported)
    rank = {"mocle": 8, "cluster": 4, "dataset": 4, "lora": 4}[adapter]  # twice that with a universal expert
    assert f"| rank, alpha | {rank}, {2 * rank} |" in text
    assert metadata["base_model"] == "base"
    assert str(base) not in text
    plain = run_code(exported, blocks, monkeypatch)["model"]
    assert isinstance(plain, PeftModel)
    assert type(plain.base_model).__name__ == "LoraModel"


def test_the_card_tells_the_best_steps_losses(recipe_file, tmp_path: Path) -> None:
    """A loss that rises makes step 2 the best of 4, and the result has its weights."""
    rising = {"max_steps": 4, "learning_rate": 2.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4}
    rising |= {"seed": 42, "load_best_model_at_end": True}
    steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    trainer = train(load_recipe(recipe_file(**rising, **steps)))
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert losses[2] < losses[4]
    text = read_card(tmp_path / "run")[1]
    assert "| weights | of step 2, the best checkpoint |" in text
    assert f"| held-out loss | {losses[2]:.4g} at step 2 (" in text
    text = read_card(tmp_path / "run" / "checkpoint-4")[1]
    assert "| weights |" not in text
    assert f"| held-out loss | {losses[4]:.4g} at step 4 (" in text


def test_the_card_of_stage_1(recipe_file, mix, tmp_path: Path, monkeypatch, capsys) -> None:
    train(load_recipe(recipe_file(stage="pretrain", max_steps=1)))
    _, text, blocks = read_card(tmp_path / "run")
    assert "| stage | 1: the projector alone |" in text
    assert "rank" not in text
    shutil.copy(Path(mix[0]["image_folder"], "3.png"), tmp_path / "run/image.jpg")
    run_code(tmp_path / "run", blocks, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_a_card_may_be_edited(recipe_file, tmp_path: Path) -> None:
    train(load_recipe(recipe_file(max_steps=1, save_strategy="steps", save_steps=1)))
    checkpoint = tmp_path / "run/checkpoint-1"
    (checkpoint / CARD_FILE).write_text("mine")
    assert flaw(checkpoint) is None


def test_a_name_shows_no_place(tmp_path: Path, monkeypatch) -> None:
    assert public_name("liuhaotian/llava-v1.5-7b") == "liuhaotian/llava-v1.5-7b"
    assert public_name("/people/anna/models/llava") == "llava"
    assert public_name("models/deep/llava/") == "llava"
    assert public_name(None) == "unknown"
    (tmp_path / "runs/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("runs/base") == "base"
