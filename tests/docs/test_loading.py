"""The snippets of docs/loading.md run on a trained model, one after the other, and answer as `Predictor` does."""

from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from llava_mocle.inference import Predictor
from tests.docs.snippets import run_page


def test_the_page_loads_a_trained_model(trained: Path, base: Path, user_folder: Path) -> None:
    names = run_page("loading")
    expected = Predictor.from_pretrained(trained).predict("images/3.png", names["question"], max_new_tokens=16)
    assert names["answer"] == expected.text
    assert names["cluster_ids"].tolist() == [expected.cluster_id]
    assert (user_folder / "exported/cluster_0/adapter_config.json").is_file()
    assert type(names["plain"].base_model).__name__ == "LoraModel"
    inputs = names["inputs"]
    with torch.no_grad():
        again = LlavaForConditionalGeneration.from_pretrained(user_folder / "exported/merged_0")(**inputs).logits
        plain = names["plain"](**inputs).logits
        untrained = LlavaForConditionalGeneration.from_pretrained(base)(**inputs).logits
    # Float32: the low-rank products are added before or after the multiplication with the input.
    torch.testing.assert_close(again, plain, atol=1e-4, rtol=0)
    assert (again - untrained).abs().max() > 0.1
