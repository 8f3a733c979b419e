"""Checkpoints of an earlier release load, give the same numbers, and go on to the same end.

`fixtures/written_before` was written by commit 87238b1: a tiny base, its rows and clusters, and the checkpoints that
`llava-mocle train recipe.yaml` and `... --stage pretrain --output_dir pretrain` left after two of four steps.
`expected.json` holds what that code logged in all four steps, and the logits of the two checkpoints. All paths in it
are relative, so a test works in a copy of the folder.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train

# The same float32 sums on another CPU may run in another order, and two optimizer steps carry that on.
TOLERANCE = 1e-4
FIXTURE = Path(__file__).parent / "fixtures" / "written_before"
STAGES = {"mocle": [], "pretrain": ["--stage", "pretrain", "--output_dir", "pretrain"]}


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    shutil.copytree(FIXTURE, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return json.loads(Path("expected.json").read_text())


@pytest.mark.parametrize("folder", STAGES)
def test_it_loads_with_the_same_logits(expected: dict, folder: str) -> None:
    loaded = load_model(f"{folder}/checkpoint-2")
    ids = torch.tensor([[5, *[loaded.image_token_id] * loaded.image_tokens_per_image, 60, 61, 62]])
    pixels = torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)
    for cluster, logits in enumerate(expected[folder]["logits"]):
        routing = {"cluster_ids": torch.tensor([cluster])} if folder == "mocle" else {}
        with torch.no_grad():
            found = loaded.model(input_ids=ids, pixel_values=pixels, **routing).logits[0, -1, :8]
        assert found.tolist() == pytest.approx(logits, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("folder", STAGES)
def test_it_goes_on_to_the_same_end(expected: dict, folder: str) -> None:
    trainer = train(load_recipe("recipe.yaml", STAGES[folder]))
    assert trainer.resumption is not None
    assert trainer.resumption.folder == Path(folder, "checkpoint-2")
    assert trainer.resumption.optimizer == "as_saved"
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    for key, name in {"loss": "losses", "grad_norm": "gradient_norms"}.items():
        assert [entry[key] for entry in steps] == pytest.approx(expected[folder][name], rel=TOLERANCE)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    found = {key: value for key, value in evaluation.items() if key.startswith("eval_loss")}
    assert found == pytest.approx(expected[folder]["held_out"], rel=TOLERANCE)
