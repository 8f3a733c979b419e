"""scripts/data/llava_three_domains.sh: the 7B recipe's data, out of miniature releases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.data.formats.official_releases import RELEASES
from tests.scripts.stubs import ROOT, Stubs

SCRIPT = "data/llava_three_domains.sh"
MAKE = ["-m", "llava_mocle.cli.main", "data", "make"]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


def test_rows_and_images_lie_where_the_recipe_looks(stubs: Stubs) -> None:
    assert stubs.run(SCRIPT, "of ficial").returncode == 0
    calls = stubs.calls("python")
    recipe = yaml.safe_load((ROOT / "scripts/recipes/llava_v1_5_7b_mocle.yaml").read_text())
    assert calls == [
        [*MAKE, name, "--source", source, "--output", dataset["data_path"], "--images", dataset["image_folder"]]
        for (name, source), dataset in zip(
            [("llava_665k", "of ficial/llava_665k"), ("geo170k", "of ficial/geo170k"), ("med_mix", "of ficial")],
            recipe["datasets"],
            strict=True,
        )
    ]


def test_goes_on_with_what_is_not_there(stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/geo170k.json").touch()
    fails = 'case "$*" in *" med_mix "*) exit 2 ;; esac'
    result = stubs.run(SCRIPT, "official", "--output", str(tmp_path / "out"), STUB_PYTHON=fails)
    assert result.returncode == 1
    assert "geo170k.json: there already" in result.stdout
    assert result.stderr == "not made: med_mix (the messages above say why); the same command makes them\n"
    assert [call[4] for call in stubs.calls("python")] == ["llava_665k", "med_mix"]


def test_a_stop_stops_all(stubs: Stubs) -> None:
    assert stubs.run(SCRIPT, "official", STUB_PYTHON="exit 130").returncode == 130
    assert len(stubs.calls("python")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: bash scripts/data/llava_three_domains.sh SOURCE"),
        (["official", "vqa"], "vqa is none of: llava_665k geo170k med_mix"),
        (["official", "--what"], "--what is no option"),
        (["official", "--output"], "--output needs a value"),
    ],
)
def test_what_it_refuses(stubs: Stubs, words: list[str], message: str) -> None:
    result = stubs.run(SCRIPT, *words)
    assert (result.returncode, message in result.stderr) == (2, True)
    assert not stubs.calls("python")


def test_help() -> None:
    result = subprocess.run(["bash", ROOT / "scripts" / SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("The data of scripts/recipes/llava_v1_5_7b_mocle.yaml")
    assert result.stdout.rstrip().endswith("the exit code is then 1.")


@pytest.mark.slow
def test_miniatures(tmp_path: Path) -> None:
    for name, release in RELEASES.items():
        release(tmp_path / "official" / name)
    command = ["bash", ROOT / "scripts" / SCRIPT, tmp_path / "official", "--output", tmp_path / "data"]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "data/llava_v1_5_mix665k.json: 8 rows with 6 images" in result.stdout
    assert "data/geo170k.json: 3 rows with 3 images" in result.stdout
    assert "data/med_mix.json: 8 rows with 6 images" in result.stdout
    assert result.stdout.count("WARNING: the official files have") == 3
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert again.stdout.count("there already") == 3
