"""Finding the newest whole checkpoint, and setting later ones aside."""

from pathlib import Path

import pytest

from llava_mocle.training.checkpoints.contents import checkpoint_step, newest_checkpoint, set_aside_after
from llava_mocle.training.checkpoints.manifest import write_manifest


def make(folder: Path, step: int, whole: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.bin").write_bytes(b"123")
    if whole:
        write_manifest(checkpoint, step=step)
    return checkpoint


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-12", 12), ("checkpoint-", -1), ("checkpoint-12.2", -1), ("my-checkpoint-12", -1), ("base", -1)],
)
def test_the_step_is_read_from_the_name(name: str, step: int) -> None:
    assert checkpoint_step(Path("run", name)) == step


def test_the_newest_has_the_most_steps_and_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert newest_checkpoint(tmp_path) is None
    make(tmp_path, 9)
    expected = make(tmp_path, 10)  # after 9 as a number, before it as a word
    (tmp_path / "base").mkdir()
    assert newest_checkpoint(tmp_path) == expected
    assert caplog.text == ""
    make(tmp_path, 11, whole=False)
    assert newest_checkpoint(tmp_path) == expected
    assert "checkpoint-11 is not whole (it has no readable checkpoint.json" in caplog.text


def test_later_checkpoints_are_set_aside_and_none_is_lost(tmp_path: Path) -> None:
    for _ in range(2):
        kept, *later = (tmp_path / f"checkpoint-{step}" for step in (2, 4, 10))
        for step in (2, 4, 10):
            if not (tmp_path / f"checkpoint-{step}").exists():
                make(tmp_path, step)
        assert set_aside_after(kept) == later
        assert kept.is_dir()
        assert newest_checkpoint(tmp_path) == kept
    names = sorted(path.name for path in (tmp_path / "abandoned").iterdir())
    assert names == ["checkpoint-10", "checkpoint-10.2", "checkpoint-4", "checkpoint-4.2"]
