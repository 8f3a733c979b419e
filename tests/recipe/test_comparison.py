"""What a resumed run may not change."""

from typing import Any

import pytest

from llava_mocle.recipe.comparison import differences
from llava_mocle.recipe.recipe import load_recipe

DATASETS = [{"name": "a", "data_path": "a.json", "image_folder": "images", "repeat": 2, "eval_data_path": "held.json"}]


def values(**changes: Any) -> dict[str, Any]:
    recipe = load_recipe()
    return recipe.trainer | recipe.as_dict() | {"datasets": DATASETS} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"log_level": "debug", "log_level_replica": "error", "log_on_each_node": False},
        {"debug": "underflow_overflow", "eval_on_start": True, "ddp_backend": "gloo", "project": "mine"},
        {"hub_token": "my-secret", "trackio_space_id": "me/space", "report_to": "wandb", "run_name": "again"},
        {"output_dir": "elsewhere", "deepspeed": {"zero_optimization": {"stage": 2}}, "attn_implementation": "sdpa"},
    ],
)
def test_how_to_run_may_change(changes: dict) -> None:
    assert differences(values(), values(**changes)) == []
    assert differences(values(**changes), values()) == []


def test_what_is_trained_may_not() -> None:
    assert differences(values(), values(lora_r=8, seed=1)) == ["lora_r: 128 then, 8 now", "seed: 42 then, 1 now"]


def test_a_key_that_is_not_known_any_more_counts() -> None:
    assert differences(values(), values(gone=3)) == ["gone: None then, 3 now"]
    assert differences(values(), values(gone=3), known_rows={"a"}) == ["gone: None then, 3 now"]


MOVED = [DATASETS[0] | {"data_path": "b.json", "image_folder": "elsewhere", "eval_data_path": "b_held.json"}]


def test_data_known_by_content_may_lie_elsewhere() -> None:
    assert differences(values(), values(datasets=MOVED), known_rows={"a"}, known_held_out={"a"}) == []
    assert len(differences(values(), values(datasets=MOVED), known_rows={"a"})) == 1  # the held-out rows are not known
    assert len(differences(values(), values(datasets=MOVED))) == 1
    clusters = {"cluster_model": "elsewhere", "cluster_assignments": "there.parquet", "num_clusters": 8}
    assert differences(values(), values(**clusters), known_rows={"a"}) == []
    assert [text.split(":")[0] for text in differences(values(), values(**clusters))] == sorted(clusters)


def test_one_dataset_either_way_is_the_same() -> None:
    short = {"datasets": None, "data_path": "a.json", "image_folder": "i"}
    long = {"datasets": [{"name": "train", "data_path": "a.json", "image_folder": "i"}]}
    assert differences(values(**short), values(**long), known_rows={"train"}) == []


def test_another_mixture_is_another_recipe() -> None:
    other = [DATASETS[0] | {"repeat": 3}]
    assert len(differences(values(), values(datasets=other), known_rows={"a"}, known_held_out={"a"})) == 1


def test_no_secret_is_told() -> None:
    before, now = values(image_folder="https://me:my-secret@host/a"), values(image_folder="https://me:my-secret@host/b")
    told = differences(before, now)
    assert len(told) == 1
    assert "my-secret" not in told[0]
