"""What ships is found in a checkout; the wheel's own test is that of `llava-mocle recipes`."""

from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.recipe import shipped

ROOT = Path(__file__).parents[2]


def test_a_checkout_has_its_own_files() -> None:
    files = shipped.shipped_files()
    assert all(path == ROOT / place and path.is_file() for place, path in files.items())
    assert {"scripts/recipes/quickstart.yaml", "zero_configs/zero2.json"} < files.keys()
    assert "scripts/recipes/llava_v1_5_7b/config.json" in files  # a recipe names it


def test_an_installation_without_them_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(shipped, "shipped_files", dict)
    assert main(["recipes"]) == 2
    assert "this installation has no recipes; install llava_mocle again" in capsys.readouterr().err
