"""`llava-mocle analyze` on tiny runs: every figure, the refusals, and what `all` leaves out."""

from pathlib import Path

import pytest

from llava_mocle.analysis.run.figures import MAKERS
from llava_mocle.cli.analyze import FIGURES
from llava_mocle.cli.main import main
from tests.analysis.conftest import lora_run, mocle_recipe, mocle_run  # noqa: F401
from tests.tiny_run import base, clusters, encoder, mix  # noqa: F401


def analyze(*words: object) -> int:
    return main(["analyze", *map(str, words)])


def test_every_figure_has_a_maker_and_a_line_of_help(capsys: pytest.CaptureFixture) -> None:
    assert list(FIGURES) == list(MAKERS)
    with pytest.raises(SystemExit):
        analyze("--help")
    shown = capsys.readouterr().out
    for text in FIGURES.values():
        assert text in shown


def test_all_figures_of_a_run(mocle_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    assert analyze("all", mocle_run, "--output", tmp_path, "--instructions", 12, "--examples", 2) == 0
    shown = capsys.readouterr().out
    assert "left out" not in shown
    expected = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv", "txt")}
    expected -= {f"examples.{kind}" for kind in ("png", "svg", "txt")}
    assert {path.name for path in tmp_path.iterdir()} == expected | {"examples.md"}
    for path in tmp_path.glob("*.txt"):
        caption = path.read_text().strip()
        assert "What to see" in caption
        assert caption in shown
    assert "24 distinct instructions of 2 datasets" in (tmp_path / "tsne.txt").read_text()


def test_all_says_what_a_lora_lacks(lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    assert analyze("all", lora_run, "--output", tmp_path) == 0
    shown = capsys.readouterr().out
    lines = dict(line.split(": left out: ") for line in shown.splitlines() if "left out" in line)
    assert set(lines) == set(FIGURES) - {"losses"}
    assert "has one expert, and no gates" in lines["experts"]
    assert "has no cluster model" in lines["clusters"]
    assert "only runs with gates log which experts they use" in lines["use"]
    assert {path.name for path in tmp_path.iterdir()} == {f"losses.{kind}" for kind in ("png", "svg", "csv", "txt")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora_r", "8"], "unexpected words: --lora_r 8; keys of a recipe are for `analyze transfer` and"),
        (["--instructions", "0"], "--instructions is 0, expected at least 1"),
        (["--category", "sums"], "--category sums: expected DATASET=WORD"),
        (["--category", "maps=VQA"], "--category maps: the run has no such dataset; it has pictures, sums"),
    ],
)
def test_wrong_flags(mocle_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list, message: str) -> None:  # noqa: F811
    assert analyze("tsne", mocle_run, "--output", tmp_path, *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_keys_of_a_recipe_where_no_model_is_loaded(mocle_run: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    assert analyze("experts", mocle_run, "--output", tmp_path, "--bf16", "true") == 2
    assert "unexpected words: --bf16 true; keys of a recipe are for a model that is loaded" in capsys.readouterr().err


def test_one_figure_that_a_run_does_not_allow(lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    assert analyze("universal", lora_run, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert "is a single LoRA (router none)" in error
    assert len(error.splitlines()) == 1
