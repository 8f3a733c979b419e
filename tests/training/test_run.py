"""Both stages on a tiny model: what is trained, what is saved, and that a resumed run is the uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from llava_mocle.errors import CheckpointError, ClusterModelError, ConfigError, DataError
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.processes.output_dir import claimed
from llava_mocle.training.run import train


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_finetune_trains_projector_experts_and_router_only(recipe_file, tmp_path: Path) -> None:
    trainer = train(load_recipe(recipe_file(eval_strategy="steps", eval_steps=2)))
    groups = {group["name"]: len(group["params"]) for group in trainer.optimizer.param_groups}
    # 2 layers x (up, down) sites x stacked A and B; gates and embedding; two projector layers.
    assert groups == {"experts": 8, "router": 2, "projector": 2, "projector_bias": 2}
    trainable = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert all("mocle_" in name or "multi_modal_projector" in name for name in trainable)
    assert not any("vision_tower" in name for name in trainable)
    logged = [entry for entry in trainer.state.log_history if "routing/overturned" in entry]
    assert len(logged) == 4
    shares = [logged[0][f"routing/up_proj/expert_{expert}"] for expert in range(3)]
    assert sum(shares) == pytest.approx(1.0)
    gate, universal = logged[0]["routing/down_proj/gate"], logged[0]["routing/down_proj/universal"]
    assert gate + universal == pytest.approx(1.0)
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    assert {"eval_loss_pictures", "eval_loss_sums"} <= evaluations[0].keys()
    assert any(key.startswith("eval_loss_cluster_") for key in evaluations[0])


def test_validation_loss_is_the_mean_over_supervised_tokens(recipe_file) -> None:
    trainer = train(load_recipe(recipe_file(max_steps=1, eval_strategy="steps", eval_steps=1)))
    model, dataset = trainer.model.eval(), trainer.eval_dataset
    sums = {"pictures": [0.0, 0], "sums": [0.0, 0]}
    for index in range(len(dataset)):
        sample = dataset[index]
        inputs = {"input_ids": sample["input_ids"][None], "cluster_ids": torch.tensor([sample["cluster_id"]])}
        if "pixel_values" in sample:
            inputs["pixel_values"] = sample["pixel_values"]
        with torch.no_grad():
            logits = model(**inputs).logits[0].double()
        for position, label in enumerate(sample["labels"][1:].tolist()):
            if label != -100:
                total = sums["pictures" if sample["dataset_id"] == 0 else "sums"]
                total[0] -= float(torch.log_softmax(logits[position], dim=-1)[label])
                total[1] += 1
    logged = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    for name, (total, count) in sums.items():
        # float32 forwards in padded batches against single ones.
        assert logged[f"eval_loss_{name}"] == pytest.approx(total / count, abs=2e-5)


def test_pretrain_changes_the_projector_alone_and_loads(recipe_file, base: Path, tmp_path: Path) -> None:
    before = load_model(base)
    trainer = train(load_recipe(recipe_file(stage="pretrain", max_steps=2)))
    assert {name for name, value in trainer.model.named_parameters() if value.requires_grad} == {
        f"model.multi_modal_projector.linear_{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")
    }
    after = load_model(tmp_path / "run")
    assert after.kind == "stage1"
    for name, value in after.model.state_dict().items():
        same = torch.equal(value, before.model.state_dict()[name])
        assert same == ("multi_modal_projector" not in name), name
        assert torch.equal(value, trainer.model.state_dict()[name])


@pytest.mark.parametrize("adapter", ["lora", "dataset", "cluster"])
def test_baselines_run_through_the_same_code(recipe_file, tmp_path: Path, adapter: str) -> None:
    trainer = train(load_recipe(recipe_file(adapter=adapter, max_steps=2)))
    experts = [value for name, value in trainer.model.named_parameters() if "experts_A" in name]
    assert {value.shape[0] for value in experts} == {1 if adapter == "lora" else 3}
    assert isinstance(load_model(tmp_path / "run").model, PeftModel)


def test_checkpoints_load_by_themselves(recipe_file, tmp_path: Path) -> None:
    trainer = train(load_recipe(recipe_file(save_strategy="steps", save_steps=2)))
    folders = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-2", "checkpoint-4"]
    loaded = load_model(folders[-1])
    assert loaded.template == "chat"
    assert loaded.cluster_model.num_clusters == 2
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        found = loaded.model(input_ids=ids, cluster_ids=torch.tensor([1])).logits
        expected = trainer.model.eval()(input_ids=ids, cluster_ids=torch.tensor([1])).logits
    assert torch.equal(found, expected)
    assert not list((tmp_path / "run").rglob("training_args.bin"))
    assert not (tmp_path / "run" / ".incomplete").exists()


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_resume_is_the_uninterrupted_run(recipe_file, tmp_path: Path, stage: str) -> None:
    common = {
        "stage": stage, "max_steps": 20, "lora_dropout": 0.1, "save_strategy": "no", "gradient_accumulation_steps": 2
    }  # fmt: skip
    whole = train(load_recipe(recipe_file(output_dir=str(tmp_path / "whole"), **common)))
    path = recipe_file(output_dir=str(tmp_path / "parts"), **common)
    first = train(load_recipe(path, ["--stop_after_steps", "10"]))
    assert first.state.global_step == 10
    second = train(load_recipe(path))
    assert losses(first)[:10] == losses(whole)[:10]
    assert losses(second)[10:] == losses(whole)[10:]
    name = "adapter_model.safetensors" if stage == "finetune" else "mm_projector.safetensors"
    expected, found = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_gradient_checkpointing_changes_nothing(recipe_file, tmp_path: Path) -> None:
    plain = train(load_recipe(recipe_file(output_dir=str(tmp_path / "plain"))))
    again = train(load_recipe(recipe_file(output_dir=str(tmp_path / "again"), gradient_checkpointing=True)))
    assert losses(again) == pytest.approx(losses(plain), abs=1e-6)


def test_training_lowers_the_loss(recipe_file) -> None:
    values = losses(train(load_recipe(recipe_file(max_steps=60, learning_rate=0.03))))
    assert sum(values[-5:]) < 0.6 * sum(values[:5])


def test_projector_and_gates_have_their_own_rates(recipe_file) -> None:
    recipe = load_recipe(
        recipe_file(max_steps=1, mm_projector_lr=0.5, gate_learning_rate=0.25, lr_scheduler_type="constant")
    )
    trainer = train(recipe)
    rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {"experts": 0.01, "router": 0.25, "projector": 0.5, "projector_bias": 0.5}
    assert next(iter(rates)) != "experts"
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == [0.01]


def test_a_language_model_and_a_tower_are_joined_once(recipe_file, base: Path, tmp_path: Path) -> None:
    parts_folder = base.parent
    keys = {
        "model_name_or_path": str(parts_folder / "llama"),
        "vision_tower": str(parts_folder / "clip"),
        "max_steps": 1,
    }
    train(load_recipe(recipe_file(**keys)))
    assert load_model(tmp_path / "run").base_path == tmp_path / "run" / "base"
    train(load_recipe(recipe_file(**keys)))
    with pytest.raises(ConfigError, match=r"base_made_from\.json"):
        train(load_recipe(recipe_file(**keys, seed=8)))


def test_stopping_where_the_run_already_is(recipe_file) -> None:
    path = recipe_file()
    train(load_recipe(path, ["--stop_after_steps", "2"]))
    with pytest.raises(ConfigError, match="stop_after_steps is 2"):
        train(load_recipe(path, ["--stop_after_steps", "2"]))


def test_the_best_checkpoint_is_kept_and_loaded(recipe_file, tmp_path: Path) -> None:
    changes = {
        "max_steps": 6,
        "learning_rate": 0.5,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
    }
    trainer = train(load_recipe(recipe_file(**changes)))
    evaluated = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = min(evaluated, key=evaluated.__getitem__)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{best}")
    expected, found = weights(tmp_path / "run" / f"checkpoint-{best}"), weights(tmp_path / "run")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_nothing_is_overwritten(recipe_file, tmp_path: Path) -> None:
    path = recipe_file(save_strategy="steps", save_steps=2)
    train(load_recipe(path))
    before = (tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="checkpoint-4"):
        train(load_recipe(path, ["--resume", "never"]))
    with pytest.raises(ConfigError, match="lora_r: 4 then, 8 now"):
        train(load_recipe(path, ["--lora_r", "8"]))
    assert (tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors").read_bytes() == before


def test_an_unfinished_checkpoint_is_skipped(recipe_file, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = recipe_file(save_strategy="steps", save_steps=2)
    train(load_recipe(path))
    (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").unlink()
    assert train(load_recipe(path)).state.global_step == 4
    assert "checkpoint-4 is not whole" in caplog.text


def test_wrong_clusters_are_refused(recipe_file, mix: list[dict], clusters: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cluster_model is not set"):
        train(load_recipe(recipe_file(cluster_model=None)))
    with pytest.raises(ClusterModelError, match="nowhere"):
        train(load_recipe(recipe_file(cluster_model=str(tmp_path / "nowhere"))))
    changed = tmp_path / "changed.json"
    rows = json.loads(Path(mix[0]["data_path"]).read_text())
    rows[3]["conversations"][0]["value"] = "<image>\nSomething else?"
    changed.write_text(json.dumps(rows))
    with pytest.raises(DataError, match="row 3"):
        train(load_recipe(recipe_file(datasets=[{**mix[0], "data_path": str(changed)}, mix[1]])))


def test_a_corrupt_image_stops_the_run_or_is_counted(
    recipe_file, mix: list[dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = tmp_path / "images"
    shutil.copytree(mix[0]["image_folder"], images)
    (images / "5.png").write_bytes(b"not a picture")
    changes = {"datasets": [mix[0] | {"image_folder": str(images)}, mix[1]], "max_steps": 19}
    with pytest.raises(DataError, match=r"5\.png"):
        train(load_recipe(recipe_file(**changes)))
    train(load_recipe(recipe_file(**changes, corrupt_images="skip")))
    assert "1 rows were skipped" in caplog.text


def test_a_killed_loader_worker_names_its_row(recipe_file, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills a worker (as it does when memory runs out) while it opens an image."""
    parent = os.getpid()

    def killed(path):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("llava_mocle.data.row_dataset.load_image", killed)
    with pytest.raises(DataError, match=r"a loader worker is gone .*pictures\.json: row \d+ \(id 'p\d+'\)"):
        train(load_recipe(recipe_file(dataloader_num_workers=1, max_steps=12)))


def test_running_a_finished_run_again_changes_nothing(recipe_file, tmp_path: Path) -> None:
    recipe = recipe_file(save_strategy="steps", save_steps=2, lr_scheduler_type="constant")
    train(load_recipe(recipe))
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()  # cut off while the result was written
    trainer = train(load_recipe(recipe))
    assert trainer.state.global_step == 4
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "run" / "checkpoint-5").exists()


def test_a_stop_keeps_its_checkpoint_and_does_not_evaluate(recipe_file, tmp_path: Path) -> None:
    """With a best checkpoint to keep, `Trainer` alone would evaluate first, and then remove all others."""
    keys = {"save_strategy": "best", "metric_for_best_model": "eval_loss", "save_total_limit": 1, "max_steps": 8}
    keys |= {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 0.5}  # so that later steps are worse
    trainer = train(load_recipe(recipe_file(**keys), ["--stop_after_steps", "4"]))
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [2]


def test_the_best_checkpoint_is_one_that_exists(recipe_file, tmp_path: Path) -> None:
    keys = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 1, "max_steps": 8}
    keys |= {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss", "learning_rate": 0.5}
    trainer = train(load_recipe(recipe_file(**keys)))
    best = trainer.state.best_model_checkpoint
    assert best is None or Path(best).is_dir()


def test_two_runs_in_one_folder(recipe_file, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file())
    with claimed(tmp_path / "run"), pytest.raises(ConfigError, match="another run is writing there"):
        train(recipe)
    train(recipe)  # and the folder is free again


def test_checkpoints_that_cannot_be_resumed_are_refused(recipe_file) -> None:
    with pytest.raises(ConfigError, match="save_only_model"):
        train(load_recipe(recipe_file(save_only_model=True)))


@pytest.mark.slow
def test_an_error_ends_a_run_with_loader_workers(recipe_file, tmp_path: Path) -> None:
    """Workers ignore SIGTERM, and multiprocessing waits for them at exit: they must be ended otherwise."""
    script = tmp_path / "boom.py"
    script.write_text(
        "import sys\n"
        "from transformers import TrainerCallback\n"
        "from llava_mocle.training import run\n"
        "from llava_mocle.training.loop import trainer\n"
        "from llava_mocle.recipe.recipe import load_recipe\n"
        "class Boom(trainer.StopAfterSteps):\n"
        "    def on_step_end(self, *args, **kwargs):\n"
        "        raise RuntimeError('boom')\n"
        "trainer.StopAfterSteps = Boom\n"
        "run.train(load_recipe(sys.argv[1], ['--stop_after_steps', '2']))\n"
    )
    command = [sys.executable, str(script), str(recipe_file(dataloader_num_workers=2))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1
    assert "boom" in done.stderr
