"""A bundle's JSON files are read as they were written, and a bundle that is not whole is refused."""

import json
from pathlib import Path

import pytest

from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import CheckpointError
from llava_mocle.export.bundle import (
    BUNDLE_FILE,
    ROUTING_FILE,
    Bundle,
    ClusterEntry,
    ImageFacts,
    Manifest,
    OutOfDistribution,
    Routing,
    Truncation,
    write_json,
)
from llava_mocle.io.files import sha256_of

ENTRY = ClusterEntry(2, "cluster_2", {"a.up": (1,)}, {"a.up": (0.75,)}, 0.25, 12.0, ("What is it?",))
ROUTING = Routing(
    router="cluster",
    num_experts=3,
    universal=True,
    sites=("a.up",),
    clusters=(ENTRY,),
    ood=OutOfDistribution(0.95, 0.8),
    instruction=InstructionRule("all"),
    template="vicuna_v1",
    image=ImageFacts("pad", (122, 116, 104), 336, 576),
    stop_token_ids=(2,),
    stop_strings=(),
    context_length=2048,
    num_clusters=4,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    write_json(tmp_path / ROUTING_FILE, ROUTING)
    files = {name: sha256_of(tmp_path / name) for name in ("base/config.json", ROUTING_FILE)}
    truncation = {"cluster_2": Truncation(0.125, {"a.up": 0.125})}
    manifest = Manifest("mine@12", "float32", "vllm", "vllm", {"cluster_2": 8}, files, "vllm", True, truncation)
    write_json(tmp_path / BUNDLE_FILE, manifest)
    return tmp_path


def test_read_as_written(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.routing == ROUTING
    assert bundle.routing.entry(2) == ENTRY
    assert bundle.routing.entry(0) is None
    assert bundle.manifest.truncation == {"cluster_2": Truncation(0.125, {"a.up": 0.125})}
    assert bundle.adapter_names == ["cluster_2"]
    bundle.check_hashes()


def test_fields_of_later_releases_are_passed_over(folder: Path) -> None:
    record = json.loads((folder / ROUTING_FILE).read_text())
    record["clusters"][0]["more"] = record["more"] = 1
    (folder / ROUTING_FILE).write_text(json.dumps(record))
    assert Bundle.open(folder).routing == ROUTING


def test_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no bundle\.json.*llava-mocle export"):
        Bundle.open(tmp_path / "none")
    (folder / "base/config.json").write_text("{ }")
    with pytest.raises(CheckpointError, match=r"1 of its files are not those.*base/config\.json"):
        Bundle.open(folder).check_hashes()
    (folder / "base/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"1 of its files are missing.*base/config\.json"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (BUNDLE_FILE, {"format_version": 9}, "format_version is 9"),
        (BUNDLE_FILE, {"truncation": {"cluster_2": 1}}, r"bundle\.json: is not as expected"),
        (ROUTING_FILE, {"clusters": [{}]}, r"routing\.json: is not as expected"),
        (ROUTING_FILE, {"image": 3}, r"routing\.json: is not as expected"),
    ],
)
def test_damaged(folder: Path, file: str, change: dict, message: str) -> None:
    record = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=message):
        Bundle.open(folder)
