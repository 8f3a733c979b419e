"""The whole command on real trainings of a tiny model: two methods, two seeds, two domains."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import main
from llava_mocle.recipe.recipe import load_recipe


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_compare(tmp_path: Path, recipe_file, mix, encoder, capfd: pytest.CaptureFixture) -> None:
    out = tmp_path / "experiment"
    design = {
        "recipe": str(recipe_file(cluster_encoder=str(encoder), max_steps=6)),
        "output_dir": str(out),
        "methods": ["single_domain", "mocle"],
        "seeds": 2,
        "test": {spec["name"]: spec["eval_data_path"] for spec in mix},
        "eval": {"max_new_tokens": 3, "batch_size": 8},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(design))
    assert main(["compare", str(path)]) == 0, [log.read_text()[-2000:] for log in out.rglob("log.txt")]
    printed = capfd.readouterr().out
    assert "[6/6]" in printed
    assert (out / "REPORT.md").read_text() in printed

    # 25 rows once and 24 twice: 25 / 73 of the samples are pictures.
    steps = {"pictures": 2, "sums": 4}
    for domain, count in steps.items():
        recipe = load_recipe(out / "runs" / "single_domain" / f"seed0-{domain}" / "recipe.yaml")
        assert recipe.trainer["max_steps"] == count
        assert [spec.name for spec in recipe.data.dataset_specs()] == [domain]
        assert (recipe.adapter.lora_r, recipe.adapter.lora_alpha) == (8, 16)

    result = json.loads((out / "comparison.json").read_text())
    assert result["missing"] == []
    for name, seeds in {"single_domain": [0, 1], "mocle": [0, 1]}.items():
        scores = result["splits"]["test"]["scores"][name]
        assert scores["seeds"] == seeds
        for domain in steps:
            folder = "mocle/seed1" if name == "mocle" else f"single_domain/seed1-{domain}"
            written = json.loads((out / "runs" / folder / "eval" / "test" / "results.json").read_text())
            assert scores["domains"][domain]["by_seed"][1] == written["domains"][domain]["score"]
    # 2 layers x 2 linears, (in 32 + out 64) x rank, and E + 1 = 4 experts of rank 4 against one of rank 8 a domain.
    one = 2 * 2 * (32 + 64)
    methods = result["methods"]
    assert methods["mocle"]["experts_trainable"] == 4 * 4 * one
    assert methods["mocle"]["experts_activated"] == 2 * 4 * one == methods["single_domain"]["experts_activated"]
    assert methods["single_domain"]["experts_trainable"] == 2 * 8 * one
    lines = list(csv.DictReader((out / "comparison.csv").open()))
    assert len(lines) == 2 * 2 * 2 * 3  # splits, methods, seeds, domains and their mean

    # Nothing is done again, and of each method the weights of one seed are left.
    before = {file: file.stat().st_mtime_ns for file in out.rglob("done.json")}
    assert main(["compare", str(path)]) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("done.json")} == before
    assert len(list(out.glob("runs/mocle/*/train/adapter_model.safetensors"))) == 1
    assert len(list(out.glob("runs/single_domain/*/train/adapter_model.safetensors"))) == 2
