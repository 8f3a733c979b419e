"""A manifest says whether a checkpoint is as it was written."""

import json
from pathlib import Path

import pytest

from llava_mocle.training.checkpoints.manifest import MANIFEST_FILE, flaw, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(200)))
    (tmp_path / "clusters" / "config.json").write_text("{}")
    write_manifest(tmp_path, step=7, start="auto")
    return tmp_path


def test_it_lists_every_file_and_the_facts(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["step"] == 7
    assert manifest["start"] == "auto"
    assert manifest["format"] == 1
    assert manifest["files"].keys() == {"weights.bin", "clusters/config.json"}
    # As `sha256sum` prints it for a file of two bytes, "{}".
    assert manifest["files"]["clusters/config.json"] == {
        "bytes": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert flaw(folder) is None


def test_a_byte_that_changed_is_a_flaw(folder: Path) -> None:
    weights = bytearray((folder / "weights.bin").read_bytes())
    weights[100] ^= 1
    (folder / "weights.bin").write_bytes(weights)
    assert flaw(folder) == "weights.bin is not what was written: its sha256 differs"


def test_a_file_cut_short_is_a_flaw(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(range(199)))
    assert flaw(folder) == "weights.bin has 199 bytes, expected 200"


def test_a_missing_file_is_a_flaw(folder: Path) -> None:
    (folder / "clusters" / "config.json").unlink()
    assert flaw(folder) == "clusters/config.json is missing"


def test_files_that_came_later_are_no_flaw(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert flaw(folder) is None


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"step": 7}', '{"files": []}'])
def test_without_a_readable_manifest_nothing_is_whole(folder: Path, content: str | None) -> None:
    (folder / MANIFEST_FILE).unlink() if content is None else (folder / MANIFEST_FILE).write_text(content)
    assert read_manifest(folder) == {}
    assert flaw(folder) == "it has no readable checkpoint.json, which is written last"


def test_writing_it_again_leaves_the_old_one_out(folder: Path) -> None:
    write_manifest(folder, step=8)
    assert json.loads((folder / MANIFEST_FILE).read_text())["step"] == 8
    assert MANIFEST_FILE not in read_manifest(folder)["files"]
    assert flaw(folder) is None
