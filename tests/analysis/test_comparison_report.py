"""The report of a comparison, made of runs whose answers are a stand-in's."""

import csv
import json
from pathlib import Path

import pytest

from llava_mocle.analysis.comparison_report import write_comparison
from tests.experiment.experiments import fake_executor, open_experiment, say_right, write_design
from tests.tiny_run import mix  # noqa: F401

PLACES = [(seed, domain) for seed in (0, 1) for domain in ("pictures", "sums")]
RIGHT = {
    **{f"single_domain/seed{seed}-{domain}-test-{domain}": "1 1 1 1 0" for seed, domain in PLACES},
    **{f"lora_activated/seed{seed}-test-{domain}": "0 0 0 0 0" for seed, domain in PLACES},
    **{f"mocle/seed{seed}-test-{domain}": "1 1 0 0 0" for seed, domain in PLACES},
}


@pytest.fixture
def written(tmp_path: Path, mix) -> tuple[str, dict, Path]:  # noqa: F811
    test = {spec["name"]: spec["eval_data_path"] for spec in mix}
    held_out = {"sums": mix[1]["eval_data_path"]}
    ablations = {"K": {"num_clusters": [1, 2]}}
    design = write_design(tmp_path, mix, seeds=2, test=test, held_out=held_out, ablations=ablations, ablation_seeds=2)
    say_right(tmp_path, RIGHT)
    experiment = open_experiment(design)
    experiment.carry_out(fake_executor(tmp_path), "best")
    text = write_comparison(experiment.result(), experiment.grid.root)
    return text, json.loads((experiment.grid.root / "comparison.json").read_text()), experiment.grid.root


def test_tables(written: tuple[str, dict, Path]) -> None:
    text, _, root = written
    assert (root / "REPORT.md").read_text() == text
    assert "Questions: pictures 5, sums 5." in text
    # Two seeds with the same answers: no spread, and intervals over questions alone.
    assert "| lora_activated | 2 | 0.0 ± 0.0 (0.0 to 0.0) | 0.0 ± 0.0 (0.0 to 0.0) | 0.0 ± 0.0 (0.0 to 0.0) |" in text
    assert "| mocle | 2 | 40.0 ± 0.0 (0.0 to 80.0) |" in text
    assert "do LoRAs of single domains beat one LoRA for all? **Yes**: single_domain - lora_activated is +80.0" in text
    assert "Does MoCLE win it back? **Yes**: mocle - lora_activated is +40.0 points" in text
    assert "## Held-out instructions (zero-shot)\n\nQuestions: sums 5." in text
    assert "### Ablation: K" in text
    assert "runs are missing" not in text
    # 10 values of experts, 3 of the router and 1 of the projector; MoCLE activates 2 of 4 experts.
    assert "| mocle | MoCLE: experts chosen by cluster, and a universal expert | 4 x 4 | 14 | 9 | 5 | 0.01 |" in text
    assert "| single_domain | one LoRA a domain, trained on that domain alone | 8 x 1 | 28 | 14 | 10 | 0.01 |" in text


def test_numbers(written: tuple[str, dict, Path]) -> None:
    _, result, root = written
    test = result["splits"]["test"]
    assert test["scores"]["mocle"]["domains"]["mean"]["by_seed"] == [0.4, 0.4]
    assert test["differences"]["single_domain"]["mocle"]["sums"]["value"] == pytest.approx(-0.4)
    assert test["shares"]["mean"]["of"]["mocle"]["value"] == pytest.approx(0.5)
    assert [entry["label"] for entry in test["ablations"]["K"]] == ["1", "2"]
    assert test["ablations"]["K"][1]["domains"]["mean"]["by_seed"] == [0.4, 0.4]  # K = 2 is MoCLE's own runs
    lines = list(csv.DictReader((root / "comparison.csv").open()))
    wanted = {"split": "test", "method": "mocle", "ablation": "", "label": "", "domain": "sums", "seed": "1"}
    assert [line["score"] for line in lines if wanted.items() <= line.items()] == ["0.400000"]


def test_a_gap_that_is_none(tmp_path: Path, mix) -> None:  # noqa: F811
    design = write_design(tmp_path, mix)
    experiment = open_experiment(design)
    experiment.carry_out(fake_executor(tmp_path), "best")
    text = write_comparison(experiment.result(), experiment.grid.root)
    assert "| mean | +0.0 (+0.0 to +0.0) | no gap to recover |" in text
    assert "everything here is on the validation rows" in text


def test_nothing_is_done_yet(tmp_path: Path, mix) -> None:  # noqa: F811
    experiment = open_experiment(write_design(tmp_path, mix))
    text = write_comparison(experiment.result(), tmp_path)
    assert "4 runs are missing" in text
    assert "##" not in text
