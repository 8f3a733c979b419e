"""scripts/data/instructblip.sh: what it starts, and that it goes on where it was stopped."""

import json
import subprocess
from pathlib import Path

import pytest

from llava_mocle.data.formats.instructblip import INSTRUCTBLIP_SETS
from tests.data.formats.instruct_rows import write_images
from tests.data.formats.official_releases import write_json
from tests.scripts.stubs import ROOT, Stubs

SCRIPT = "data/instructblip.sh"
MAKE = ["-m", "llava_mocle.cli.main", "data", "make"]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


def test_all_sets(stubs: Stubs) -> None:
    assert stubs.run(SCRIPT, "of ficial", "--variants", "2", "--seed", "7", "--output", "out").returncode == 0
    assert stubs.calls("python") == [
        [
            *[*MAKE, form.name, "--source", "of ficial", "--output", f"out/{form.name}.jsonl"],
            *["--images", "out/images", "--seed", "7"],
            *(["--variants", "2"] if form.uses_variants else []),
        ]
        for form in INSTRUCTBLIP_SETS
    ]


def test_goes_on_with_what_is_not_there(stubs: Stubs, tmp_path: Path) -> None:
    done = stubs.folder.parent / "data/instructblip/ok_vqa.jsonl"
    done.parent.mkdir(parents=True)
    done.touch()
    fails = 'case "$*" in *" ok_vqg "*) exit 2 ;; esac'
    result = stubs.run(SCRIPT, "official", "ok_vqa", "ok_vqg", "textcaps", "--images", "official", STUB_PYTHON=fails)
    assert result.returncode == 1
    assert "ok_vqa.jsonl: there already" in result.stdout
    assert result.stderr == "not made: ok_vqg (the messages above say why); the same command makes them\n"
    assert [call[4] for call in stubs.calls("python")] == ["ok_vqg", "textcaps"]
    assert {call[call.index("--images") + 1] for call in stubs.calls("python")} == {"official"}


def test_a_stop_stops_all(stubs: Stubs) -> None:
    assert stubs.run(SCRIPT, "official", STUB_PYTHON="exit 130").returncode == 130
    assert len(stubs.calls("python")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: bash scripts/data/instructblip.sh SOURCE"),
        (["official", "vqa"], "vqa is none of: aok_vqa aok_vqg"),
        (["official", "--what"], "--what is no option"),
        (["official", "--seed"], "--seed needs a value"),
    ],
)
def test_wrong_words(stubs: Stubs, words: list[str], message: str) -> None:
    result = stubs.run(SCRIPT, *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert stubs.calls() == []


def test_help(stubs: Stubs) -> None:
    result = stubs.run(SCRIPT, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("The thirteen training sets of InstructBLIP")
    assert "set -euo" not in result.stdout


def test_a_set_is_really_made(tmp_path: Path) -> None:
    official = tmp_path / "official"
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A bus."}]
    record = {"id": "000000000042", "image": "000000000042.jpg", "conversations": turns}
    write_json(official / "llava_150k/detail_23k.json", [record])
    write_images(official / "coco/train2017", "000000000042.jpg")
    words = [str(official), "llava_detail", "--output", str(tmp_path / "made")]
    result = subprocess.run(["bash", ROOT / "scripts" / SCRIPT, *words], capture_output=True, text=True, check=True)
    assert "expected 23,240" in result.stdout
    (row,) = map(json.loads, (tmp_path / "made/llava_detail.jsonl").read_text().splitlines())
    assert (tmp_path / "made/images" / row["image"]).samefile(official / row["image"])
    assert (row["dataset"], row["task_group"], row["conversations"]) == ("llava_detail", "-", turns)
