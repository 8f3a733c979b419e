"""Checkpoints of DeepSpeed runs: what is in them, that they load without DeepSpeed, and other world sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.ranks import ROOT, ZERO, history, run

STEPS, STOP = 6, 3
# On another number of ranks float32 sums run in another order, and Adam's first steps amplify the difference.
TOLERANCE = 1e-5

LOAD = """
import json, sys
sys.modules["deepspeed"] = None  # importing it now fails
import torch
from peft import get_peft_model_state_dict
from llava_mocle.model.load import load_model
loaded = load_model(sys.argv[1])
state = get_peft_model_state_dict(loaded.model)
from safetensors.torch import save_file
save_file({name: value.contiguous() for name, value in state.items()}, sys.argv[2])
ids = torch.tensor([[5, 6, 7]])
logits = loaded.model(input_ids=ids, cluster_ids=torch.tensor([1])).logits
print(json.dumps({"finite": bool(logits.isfinite().all()), "clusters": loaded.cluster_model.num_clusters}))
"""


@pytest.fixture
def recipe(recipe_file) -> Path:
    return recipe_file(max_steps=STEPS, save_strategy="steps", save_steps=STOP, gate_noise_std=0.0)


def words(folder: Path, zero: int, batch: int = 4) -> list[str]:
    return ["--output_dir", str(folder), "--deepspeed", ZERO[zero], "--per_device_train_batch_size", str(batch)]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_a_checkpoint_holds_the_gathered_weights_and_loads_without_deepspeed(
    recipe: Path, tmp_path: Path, zero: int
) -> None:
    # DeepSpeed's own way of putting its partitions together is the reference.
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    run(tmp_path / "logs", recipe, *words(tmp_path / "out", zero, 2), "--stop_after_steps", str(STOP), count=2)
    checkpoint = tmp_path / "out" / f"checkpoint-{STOP}"
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert all("mocle_" in name or "multi_modal_projector" in name for name in saved)
    gathered = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), exclude_frozen_parameters=True)
    plain = {
        name.replace(".experts_A.default", ".experts_A").replace(".default.", "."): value
        for name, value in gathered.items()
    }
    plain = {name.replace("modules_to_save.", ""): value for name, value in plain.items()}
    assert plain.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(value, plain[name]), name

    script = tmp_path / "load.py"
    script.write_text(LOAD)
    command = [sys.executable, str(script), str(checkpoint), str(tmp_path / "loaded.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"finite": True, "clusters": 2}
    loaded = load_file(tmp_path / "loaded.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_a_cluster_embedding_that_is_not_trained_is_saved_and_goes_on(recipe: Path, tmp_path: Path, zero: int) -> None:
    """It comes from a warm start, so that the centroids, which a new adapter starts from, are not what it should be."""
    run(tmp_path / "0", recipe, "--output_dir", str(tmp_path / "start"))
    fixed = ["--warm_start", str(tmp_path / "start"), "--train_cluster_embedding", "false"]
    run(tmp_path / "a", recipe, *words(tmp_path / "unbroken", zero, 2), *fixed, count=2)
    run(tmp_path / "b", recipe, *words(tmp_path / "out", zero, 2), *fixed, "--stop_after_steps", str(STOP), count=2)
    run(tmp_path / "c", recipe, *words(tmp_path / "out", zero, 2), *fixed, count=2)
    run(tmp_path / "d", recipe, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "4", *fixed)
    assert history(tmp_path / "out") == history(tmp_path / "unbroken")
    for found, expected in zip(history(tmp_path / "out"), history(tmp_path / "one"), strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)
    name = "base_model.mocle_router.cluster_embedding"
    embeddings = [load_file(tmp_path / run_ / "adapter_model.safetensors")[name] for run_ in ("start", "out", "one")]
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_universal_checkpoint_goes_on_at_another_world_size(recipe: Path, tmp_path: Path, zero: int) -> None:
    unbroken, folder = tmp_path / "unbroken", tmp_path / "out"
    run(tmp_path / "a", recipe, *words(unbroken, zero))
    run(tmp_path / "b", recipe, *words(folder, zero, 2), "--stop_after_steps", str(STOP), count=2)
    run(tmp_path / "c", recipe, *words(folder, zero), "--universal_checkpoint", "true")
    for found, expected in zip(history(folder), history(unbroken), strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_without_it_weights_and_schedule_go_on(recipe: Path, tmp_path: Path, zero: int) -> None:
    unbroken, folder = tmp_path / "unbroken", tmp_path / "out"
    run(tmp_path / "a", recipe, *words(unbroken, zero))
    run(tmp_path / "b", recipe, *words(folder, zero, 2), "--stop_after_steps", str(STOP), count=2)
    said = run(tmp_path / "c", recipe, *words(folder, zero)).output()
    assert f"zero{zero} on 2 processes then, zero{zero} on 1 now" in said
    assert "--universal_checkpoint true converts it" in said
    # The first resumed loss depends on the weights alone; from then on the fresh optimizer shows.
    after = STOP
    assert history(folder)[after] == pytest.approx(history(unbroken)[after], rel=TOLERANCE)
    assert history(folder)[after + 1][0] != pytest.approx(history(unbroken)[after + 1][0], rel=TOLERANCE)
    rates = [
        [entry["learning_rate"] for entry in json.loads((run_ / "trainer_state.json").read_text())["log_history"]
         if "loss" in entry]
        for run_ in (folder, unbroken)
    ]  # fmt: skip
    assert rates[0] == rates[1]


@pytest.mark.slow
def test_stage_1_resumes_under_zero_3(recipe: Path, tmp_path: Path) -> None:
    unbroken, folder = tmp_path / "unbroken", tmp_path / "out"
    stage = ["--stage", "pretrain"]
    run(tmp_path / "a", recipe, *words(unbroken, 3, 2), *stage, count=2)
    run(tmp_path / "b", recipe, *words(folder, 3, 2), *stage, "--stop_after_steps", str(STOP), count=2)
    run(tmp_path / "c", recipe, *words(folder, 3, 2), *stage, count=2)
    assert history(folder) == history(unbroken)
    first, second = (load_file(path / "mm_projector.safetensors") for path in (folder, unbroken))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_another_global_batch_is_refused(recipe: Path, tmp_path: Path) -> None:
    from tests.training.ranks import start

    folder = tmp_path / "out"
    run(tmp_path / "a", recipe, "--output_dir", str(folder), "--stop_after_steps", str(STOP))
    ranks = start(tmp_path / "b", recipe, "--output_dir", str(folder), "--per_device_train_batch_size", "2")
    assert ranks.wait() == [2]
    assert "4 then, 2 now" in ranks.output()
