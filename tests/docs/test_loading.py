"""The snippets of docs/loading.md run on a trained model, one after the other, and answer as `Predictor` does."""

from pathlib import Path

import pytest

from llava_mocle.inference import Predictor
from tests.docs.snippets import python_snippets

PAGE = Path(__file__).parents[2] / "docs" / "loading.md"


def test_the_page_loads_a_trained_model(
    trained: Path, base: Path, mix: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "user"
    (folder / "runs").mkdir(parents=True)
    (folder / "runs/base").symlink_to(base)
    (folder / "runs/mine").symlink_to(trained)
    (folder / "images").symlink_to(mix[0]["image_folder"])
    monkeypatch.chdir(folder)
    names: dict = {}
    for snippet in python_snippets(PAGE):
        exec(snippet, names)

    expected = Predictor.from_pretrained(trained).predict("images/3.png", names["question"], max_new_tokens=16)
    assert names["answer"] == expected.text
    assert names["cluster_ids"].tolist() == [expected.cluster_id]
    assert (folder / "exported/cluster_0/adapter_config.json").is_file()
    assert type(names["plain"].base_model).__name__ == "LoraModel"
