"""Names on a hub: asked for first, then looked for in the cache; a path is no name. Nothing here asks a real hub."""

from pathlib import Path

import pytest

from llava_mocle.io.hub import find_snapshot


@pytest.mark.parametrize(
    ("offline", "reachable", "expected"),
    [(True, True, [True]), (False, True, [False]), (False, False, [False, True])],
)
@pytest.mark.parametrize("name", ["lmsys/vicuna", "bert"])
def test_a_name_is_completed_first_and_taken_from_the_cache_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool, reachable: bool, expected: list[bool]
) -> None:
    asked = []

    def snapshot(found, ignore_patterns, local_files_only=False):
        assert (found, ignore_patterns) == (name, ["*.onnx"])
        asked.append(local_files_only)
        if not local_files_only and not reachable:
            raise ConnectionError("no network")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert find_snapshot(name, ignore=["*.onnx"]) == (tmp_path, "")
    assert asked == expected


@pytest.mark.parametrize(("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, r"download failed (OSError)")])
def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch, offline: bool, why: str) -> None:
    def snapshot(*_, local_files_only=False, **__):
        raise FileNotFoundError if local_files_only else OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    folder, reason = find_snapshot("lmsys/vicuna")
    assert folder is None
    assert why in reason
    assert reason.endswith("and it is not in the local cache (FileNotFoundError)")


@pytest.mark.parametrize("path", ["/models/vicuna", "./vicuna", "../lmsys/vicuna", "~/vicuna", "runs/base/x"])
def test_a_path_is_no_name(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def snapshot(*_, **__):
        raise AssertionError("a hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_snapshot(path) == (None, "it is a path, not the name of a model on the hub")
