"""A dry run counts what a recipe would train, on the meta device."""

import json
from pathlib import Path

import pytest
import yaml

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import dry_run, meta_model
from llava_mocle.training.setup.adapter import count_parameters

ROOT = Path(__file__).parents[2]


def test_the_papers_parameter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe("scripts/recipes/llava_v1_5_7b_mocle.yaml")
    text = dry_run(recipe).text
    # Worked by hand: 32 layers x 2 sites x 5 experts x 128 x (4096 + 11008) values; the gates are
    # 64 sites x 4 experts x 384, the embedding 4 x 384; the projector 1024 -> 4096 -> 4096 with biases.
    assert f"experts    {32 * 2 * 5 * 128 * (4096 + 11008):>14,}" in text
    assert f"projector  {1024 * 4096 + 4096 + 4096 * 4096 + 4096:>14,}" in text
    assert f"router     {64 * 4 * 384 + 4 * 384:>14,}" in text


def test_stage_1_trains_the_projector_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = dry_run(load_recipe("scripts/recipes/llava_v1_5_7b_pretrain.yaml")).text
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert f"trainable  {projector:>14,}" in text
    assert f"experts    {0:>14,}" in text


@pytest.mark.parametrize(
    ("words", "experts"),
    [
        (["--adapter", "lora"], 4_194_304),
        (["--adapter", "lora", "--lora_r", "64", "--lora_alpha", "256"], 33_554_432),
        (["--adapter", "cluster"], 16_777_216),
        ([], 20_971_520),
    ],
    ids=["a", "b", "c", "d"],
)
def test_the_parameters_of_table_5(words: list[str], experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.19, 33.55, 16.78 and 20.97 million: 32 layers x 2 sites x experts x r x (4096 + 4096)."""
    monkeypatch.chdir(ROOT)
    recipe = load_recipe("scripts/recipes/instructblip_vicuna_7b_mocle.yaml", words)
    model = meta_model(recipe)
    counts = count_parameters(model)
    assert counts["experts"] == experts
    assert len({name.split(".mocle_experts")[0] for name, _ in model.named_parameters() if "mocle_exp" in name}) == 64
    beside = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "mocle_" not in name]
    assert "base_model.model.query_tokens" in beside


def test_it_needs_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": "nowhere", "data_path": "a.json"}))
    with pytest.raises(ConfigError, match=r"(?s)'nowhere'.*if stage 1 is to write .*train that first.*--model_config"):
        dry_run(load_recipe(path)).found.refuse()


def test_stage_2_on_a_stage_1_folder(recipe_file, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage1"
    folder.mkdir()
    (folder / "mm_projector_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    on_folder = dry_run(load_recipe(recipe_file(model_name_or_path=str(folder)), ["--output_dir", "runs/x"])).text
    on_base = dry_run(load_recipe(recipe_file(model_name_or_path=str(base)), ["--output_dir", "runs/x"])).text
    assert on_folder.splitlines()[1:] == on_base.splitlines()[1:]
