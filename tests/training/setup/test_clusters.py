"""The cluster model a recipe names is the one it describes, and every row gets the cluster of its instruction."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.errors import ClusterModelError, ConfigError
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe, write_recipe
from llava_mocle.training.run import train
from llava_mocle.training.setup.data import prepare_data
from tests.clustering.encoders import record_devices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 16}, r"num_clusters is 16, but the cluster model .*k2 was made with 2; .*--overwrite"),
        ({"instruction_turns": "all"}, "instruction_turns is 'all', .*made with 'first'"),
        ({"cluster_seed": 5}, "cluster_seed is 5, .*made with 0"),
        ({"cluster_n_init": 3}, "cluster_n_init is 3, .*made with 10"),
    ],
)
def test_what_is_said_of_the_clusters_holds(recipe_file, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe_file(**changes)))
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe_file(), words))


def test_what_is_not_said_claims_nothing(recipe_file, tmp_path: Path) -> None:
    """K is 2 here, and 4 by default: as after `llava-mocle cluster --num-clusters 2`."""
    path = recipe_file(max_steps=1)
    path.write_text("".join(line for line in path.open() if not line.startswith("num_clusters")))
    resolved = tmp_path / "resolved.yaml"
    write_recipe(load_recipe(path), resolved)  # as the scripts do
    train(load_recipe(resolved))
    kept = tmp_path / "run" / "recipe.yaml"
    train(load_recipe(kept, ["--output_dir", str(tmp_path / "again")]))


def test_an_encoder_is_known_by_its_weights(recipe_file, clusters: Path, encoder: Path, tmp_path: Path) -> None:
    same = shutil.copytree(encoder, tmp_path / "same")
    train(load_recipe(recipe_file(max_steps=1, cluster_encoder=str(same))))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=r"cluster_encoder is '.*other', .*made with '.*tiny-encoder"):
        train(load_recipe(recipe_file(cluster_encoder=str(other))))


@pytest.mark.parametrize("adapter", ["lora", "dataset"])
def test_adapters_that_route_otherwise_need_no_cluster_files(
    recipe_file, clusters: Path, tmp_path: Path, adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(clusters, tmp_path / "clusters"))
    keys = {"adapter": adapter, "cluster_model": str(folder), "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    (folder / "assignments.parquet").unlink()
    logged = train(load_recipe(recipe_file(**keys))).state.log_history
    assert any(key.startswith("eval_loss_cluster_") for entry in logged for key in entry)
    (folder / "centroids.safetensors").unlink()
    again = recipe_file(**keys, output_dir=str(tmp_path / "again"))
    logged = train(load_recipe(again)).state.log_history
    assert not any(key.startswith("eval_loss_cluster_") for entry in logged for key in entry)
    assert "goes on without the validation loss a cluster" in caplog.text
    with pytest.raises(ClusterModelError, match="centroids"):
        train(load_recipe(again, ["--adapter", "mocle", "--output_dir", str(tmp_path / "mocle")]))


@pytest.fixture
def mixed(mix: list[dict], tmp_path: Path) -> list[dict]:
    """Held-out rows of both kinds in either dataset, in another order than the datasets'."""
    rows = [json.loads(Path(spec["eval_data_path"]).read_text()) for spec in mix]
    specs = []
    for place, (spec, order) in enumerate(zip(mix, ([1, 0, 1, 1], [0, 0, 1, 0, 1]), strict=True)):
        path = tmp_path / f"{spec['name']}_mixed.json"
        path.write_text(
            json.dumps([rows[kind][number] | {"id": f"{place}{number}"} for number, kind in enumerate(order)])
        )
        specs.append(spec | {"eval_data_path": str(path)})
    return specs


def expected_clusters(mixed: list[dict], clusters: Path) -> list[int]:
    """Each held-out row alone, in the datasets' order."""
    model = ClusterModel.load(clusters)
    return [
        int(model.assign([instruction_text(row, InstructionRule())])[0][0])
        for spec in mixed
        for row in json.loads(Path(spec["eval_data_path"]).read_text())
    ]


def test_held_out_rows_have_the_clusters_of_their_instructions(
    recipe_file, mixed: list[dict], base: Path, clusters: Path
) -> None:
    expected = expected_clusters(mixed, clusters)
    assert expected[:4] not in ([0] * 4, [1] * 4)  # else a constant would do
    data = prepare_data(load_recipe(recipe_file(datasets=mixed)), load_model(base))
    assert data.validation is not None
    assert [int(data.validation[index]["cluster_id"]) for index in range(len(data.validation))] == expected


def test_the_validation_loss_is_filed_under_each_rows_cluster(recipe_file, mixed: list[dict], clusters: Path) -> None:
    keys = {"datasets": mixed, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.1}
    trainer = train(load_recipe(recipe_file(**keys)))
    model, dataset = trainer.model.eval(), trainer.data.validation
    sums = {cluster: [0.0, 0] for cluster in (0, 1)}
    for index, cluster in enumerate(expected_clusters(mixed, clusters)):
        sample = dataset[index]
        inputs = {"input_ids": sample["input_ids"][None], "cluster_ids": torch.tensor([cluster])}
        if "pixel_values" in sample:
            inputs["pixel_values"] = sample["pixel_values"]
        with torch.no_grad():
            scores = torch.log_softmax(model(**inputs).logits[0].double(), dim=-1)
        for position, label in enumerate(sample["labels"][1:].tolist()):
            if label != -100:
                sums[cluster][0] -= float(scores[position, label])
                sums[cluster][1] += 1
    logged = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    means = {cluster: total / count for cluster, (total, count) in sums.items()}
    assert abs(means[0] - means[1]) > 1e-3
    for cluster, mean in means.items():
        # float32 forwards in padded batches against single ones.
        assert logged[f"eval_loss_cluster_{cluster}"] == pytest.approx(mean, abs=2e-5)


def test_the_encoder_runs_on_the_ranks_own_device(
    recipe_file, mixed: list[dict], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in mixed:  # texts whose clusters are not stored
        path = Path(spec["eval_data_path"])
        path.write_text(path.read_text().replace("?", ", please?"))
    recipe, loaded = load_recipe(recipe_file(datasets=mixed)), load_model(base)
    state = PartialState()
    monkeypatch.setitem(state.__dict__, "device", torch.device("cuda", 1))
    asked = record_devices(monkeypatch)
    prepare_data(recipe, loaded)
    assert asked[0] == "cuda:1"
