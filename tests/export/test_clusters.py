"""The sentence encoder goes into a bundle from wherever a `Predictor` finds it, and no other one does."""

import logging
from pathlib import Path

import pytest

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.encoder_files import ASSETS_VARIABLE, weight_hash
from llava_mocle.export.clusters import write_clusters
from tests.inference import tiny


@pytest.fixture
def clusters(checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterModel:
    """Of another machine: the encoder is not where it was."""
    found = ClusterModel.load(checkpoint_dir / "clusters")
    monkeypatch.setattr(found.config, "encoder", "/elsewhere/encoder")
    return found


def test_an_encoder_that_has_moved(
    clusters: ClusterModel, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(encoder_dir.parent))
    write_clusters(tmp_path, clusters, None)
    assert weight_hash(tmp_path / "encoder") == clusters.config.encoder_weight_hash
    assert ClusterModel.load(tmp_path / "clusters", tmp_path / "encoder").config.encoder == "encoder"


def test_no_encoder_or_another(
    clusters: ClusterModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    other = tiny.make_tiny_encoder(tmp_path / "other", seed=9)
    for name, given in (("none", None), ("wrong", str(other))):
        (tmp_path / name).mkdir()
        with caplog.at_level(logging.WARNING):
            write_clusters(tmp_path / name, clusters, given)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["clusters"]
    assert "sentence encoder '/elsewhere/encoder' was not found" in caplog.text
    assert f"Why not: {other} is another one" in caplog.text
