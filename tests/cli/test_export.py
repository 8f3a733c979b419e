"""`llava-mocle export`: what it prints, and how it refuses."""

from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.export.bundle import Bundle
from tests.inference.conftest import base_dir, checkpoint_dir, encoder_dir  # noqa: F401


def test_a_bundle(checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    output = tmp_path / "bundle"
    assert main(["export", "--model", str(checkpoint_dir), "--output", str(output), "--rank", "4"]) == 0
    said = capsys.readouterr().out
    bundle = Bundle.open(output)
    bundle.check_hashes()
    assert bundle.manifest.command in said
    assert "cluster_2: rank 4 loses" in said
    assert f"{bundle.manifest.truncation['cluster_2'].total:.2%}" in said
    assert "no weight missing or left over" in said
    # A second time: it is never overwritten.
    assert main(["export", "--model", str(checkpoint_dir), "--output", str(output)]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "--model", "a", "--output", "b", "--format", "onnx"])
    assert "invalid choice: 'onnx'" in capsys.readouterr().err
