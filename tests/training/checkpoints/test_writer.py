"""Checkpoints appear whole or not at all, and whoever the umask lets read them can."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerState

from llava_mocle.errors import CheckpointError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.contents import CheckpointExtras, newest_checkpoint
from llava_mocle.training.checkpoints.manifest import flaw, read_manifest
from llava_mocle.training.checkpoints.writer import CheckpointWriter
from llava_mocle.training.run import train


def make_writer(folder: Path, **changes) -> CheckpointWriter:
    """Without a trainer: one process, an output folder, and digests of some data."""
    values = {
        "output_dir": str(folder), "should_save": True, "world_size": 1, "deepspeed": None, "train_batch_size": 4,
        "gradient_accumulation_steps": 2, "save_total_limit": None,
    }  # fmt: skip
    extras = CheckpointExtras(None, None, None, data_identity={"rows": {"a": "digest"}})
    return CheckpointWriter(SimpleNamespace(**values | changes), extras, "base", "auto")


def write(writer: CheckpointWriter, step: int, content: str = "weights") -> Path:
    state = TrainerState(global_step=step)
    with writer.checkpoint(state):
        (writer.folder / f"checkpoint-{step}").mkdir(parents=True)
        (writer.folder / f"checkpoint-{step}" / "weights.bin").write_text(content)
    return writer.output_dir / f"checkpoint-{step}"


def test_a_checkpoint_is_moved_into_place_when_it_is_whole(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    with writer.checkpoint(TrainerState(global_step=3)):
        (writer.folder / "checkpoint-3").mkdir(parents=True)
        (writer.folder / "checkpoint-3" / "weights.bin").write_text("weights")
        assert newest_checkpoint(tmp_path) is None
        assert not (tmp_path / "checkpoint-3").exists()
    assert writer.folder == tmp_path
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    manifest = read_manifest(tmp_path / "checkpoint-3")
    del manifest["files"]
    expected = {"step": 3, "optimizer": "torch", "world_size": 1, "global_batch": 8, "start": "auto", "format": 1}
    assert manifest == expected | {"rows": {"a": "digest"}}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_failure_leaves_the_earlier_checkpoint_and_says_so(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    write(writer, 1)
    message = r"checkpoint-2 could not be written \(OSError: full\); checkpoint-1 is whole, and [\d,]+ MiB are free"
    (writer.staging / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=message), writer.checkpoint(TrainerState(global_step=2)):
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert flaw(tmp_path / "checkpoint-1") is None
    assert write(writer, 2).is_dir()


def test_a_dead_loader_worker_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    with pytest.raises(RuntimeError, match="DataLoader worker"), writer.checkpoint(TrainerState(global_step=2)):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_what_a_killed_run_left_in_the_staging_folder_is_removed(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    (writer.staging / "checkpoint-2").mkdir(parents=True)
    (writer.staging / "checkpoint-2" / "half.bin").write_text("half")
    assert not (write(writer, 2) / "half.bin").exists()
    assert not writer.staging.exists()


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    write(writer, 2, "old")
    assert (write(writer, 2, "new") / "weights.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, save_total_limit=2)
    best = str(write(writer, 1))
    for step in (2, 3):
        state = TrainerState(global_step=step, best_model_checkpoint=best)
        with writer.checkpoint(state):
            (writer.folder / f"checkpoint-{step}").mkdir(parents=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]


def test_the_best_is_recorded_where_it_is_moved_to(tmp_path: Path) -> None:
    writer, state = make_writer(tmp_path), TrainerState(global_step=2)
    with writer.checkpoint(state):
        (writer.folder / "checkpoint-2").mkdir(parents=True)
        state.best_model_checkpoint = str(writer.folder / "checkpoint-2")
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    saved = TrainerState.load_from_json(str(tmp_path / "checkpoint-2" / "trainer_state.json"))
    assert saved.best_model_checkpoint == str(tmp_path / "checkpoint-2")


def test_a_result_that_cannot_be_written_names_what_is_kept(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    write(writer, 4)
    message = r"the result could not be written \(OSError: full\); checkpoint-4 is whole"
    with pytest.raises(CheckpointError, match=message), writer.result():
        raise OSError("full")


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_colleagues_can_read_checkpoints_and_results(recipe_file, tmp_path: Path, stage: str) -> None:
    before = os.umask(0o022)
    try:
        train(load_recipe(recipe_file(stage=stage, save_strategy="steps", save_steps=2)))
    finally:
        os.umask(before)
    weights = "adapter_model.safetensors" if stage == "finetune" else "mm_projector.safetensors"
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.name == weights} == {"run", "checkpoint-2", "checkpoint-4"}
    closed = [path.relative_to(tmp_path) for path in files if path.stat().st_mode & 0o044 != 0o044]
    assert closed == []
