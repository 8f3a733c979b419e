"""What a run's folder says of its routing, on a tiny run."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from llava_mocle.analysis.run.folder import RunFolder, find_site, site_groups
from llava_mocle.errors import CheckpointError, ConfigError, DataError
from llava_mocle.model.load import load_model


def test_gates_are_those_of_the_loaded_model(mocle_run):
    run, model = RunFolder(mocle_run), load_model(mocle_run).model
    assert run.gates == pytest.approx(model.base_model.clean_gates().double().numpy(), abs=1e-7)
    assert run.sites == model.base_model.sites
    assert run.gates.shape == (2, 4, 3)


def test_training_rows_are_counted(mocle_run):
    pictures, sums = RunFolder(mocle_run).dataset_clusters()
    assert (pictures.name, sums.name) == ("pictures", "sums")
    assert (pictures.counts.sum(), sums.counts.sum()) == (25, 24)
    assert pictures.counted == "training rows"
    # The tiny encoder tells pictures and sums apart.
    assert pictures.counts.argmax() != sums.counts.argmax()
    assert sums.shares.max() > 0.9


def test_without_the_table_held_out_rows_are_counted(mocle_run, tmp_path):
    shutil.copytree(mocle_run, tmp_path / "moved")
    recipe = tmp_path / "moved" / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"cluster_model": "gone"}))
    found = RunFolder(tmp_path / "moved").dataset_clusters()
    assert {dataset.counted for dataset in found} == {"held-out rows"}
    assert [dataset.counts.sum() for dataset in found] == [5, 5]
    (tmp_path / "moved" / "clusters" / "held_out.parquet").unlink()
    with pytest.raises(DataError, match=r"assignment table of its rows .* is not here; `llava-mocle cluster --recipe"):
        RunFolder(tmp_path / "moved").dataset_clusters()


def test_held_out_datasets_come_from_rows_or_answers(mocle_run, mix, tmp_path):
    run = RunFolder(mocle_run)
    (tmp_path / "eval" / "answers").mkdir(parents=True)
    answers = [
        {"question_id": place, "prompt": "?", "text": "", "answer_id": "a", "model_id": "m"}
        | {"metadata": {"cluster_id": cluster}}
        for place, cluster in enumerate([0, 1, 1])
    ]
    path = tmp_path / "eval" / "answers" / "pope.jsonl"
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    rows = mix[1]["eval_data_path"]  # five of the sums
    found = run.held_out_clusters([str(tmp_path / "eval"), f"new={rows}"])
    assert [(dataset.name, dataset.trained) for dataset in found] == [("pope", False), ("new", False)]
    assert found[0].counts.tolist() == [1, 2]
    assert found[1].counts.sum() == 5
    answers[0]["metadata"]["cluster_id"] = 2
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    with pytest.raises(DataError, match="do not name a cluster 0 to 1 each"):
        run.held_out_clusters([str(tmp_path / "eval")])
    with pytest.raises(DataError, match="no such file of rows, and no folder of `llava-mocle eval`"):
        run.held_out_clusters(["nothing"])
    with pytest.raises(ConfigError, match="two datasets are named 'new'"):
        run.held_out_clusters([f"new={rows}", f"new={rows}"])


def test_instructions_are_counted(mocle_run, mix):
    found = RunFolder(mocle_run).instructions
    assert sum(found["pictures"].values()) == 25
    assert found["sums"]["How much is 3 and 3?"] == 1


def test_a_plain_lora_has_neither_gates_nor_clusters(lora_run):
    run = RunFolder(lora_run)
    with pytest.raises(ConfigError, match="it has one expert, and no gates"):
        _ = run.gates
    with pytest.raises(ConfigError, match="has no cluster model"):
        _ = run.cluster_model


def test_other_folders_are_refused(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder of kind 'base'; give the folder of a run of stage 2"):
        RunFolder(base)
    with pytest.raises(CheckpointError, match="no such folder"):
        RunFolder(tmp_path / "none")


def test_sites():
    sites = ["m.layers.0.mlp.up", "m.layers.0.mlp.down", "m.layers.1.mlp.up"]
    assert find_site(sites, None) == 1
    assert find_site(sites, "layers.1.mlp.up") == 2
    for wanted, found in (("up", "2 sites are"), ("q", "no site is")):
        with pytest.raises(ConfigError, match=f"--site {wanted}: {found} named so"):
            find_site(sites, wanted)
    assert site_groups(sites) == {"up": [0, 2], "down": [1]}


def test_the_dataset_router_has_gates_of_datasets(mocle_run, tmp_path):
    """A saved adapter with the dataset router: each dataset has all its rows at gates of its own."""
    shutil.copytree(mocle_run, tmp_path / "by_dataset")
    folder = tmp_path / "by_dataset"
    config = json.loads((folder / "adapter_config.json").read_text()) | {"router": "dataset"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    run = RunFolder(folder)
    assert [dataset.counts.tolist() for dataset in run.dataset_gates()] == [[25, 0], [0, 24]]
    assert torch.is_tensor(torch.as_tensor(run.gates))
    with pytest.raises(ConfigError, match="a held-out dataset has no gates"):
        run.held_out_clusters(["x"])
    assert np.isclose(run.gates.sum(axis=-1), 1).all()
