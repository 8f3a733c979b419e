"""The snippets of docs/adapter.md run on a tiny base model."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from llava_mocle.model.load import load_model
from tests.docs.snippets import DOCS, python_snippets, run_page

QUESTIONS = ["What is this?", "How much is 2 and 2?", "Is grey a colour?", "What colour is picture 3?"]


def test_the_page_makes_saves_and_exports_an_adapter(base: Path, user_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(QUESTIONS, return_tensors="pt", padding=True)
    names = run_page("adapter", batch=batch, inputs=tokenizer(QUESTIONS[:1], return_tensors="pt"))

    assert names["config"].num_clusters == 2
    assert names["routing"].expert.shape == (len(names["model"].sites), len(QUESTIONS))
    assert names["gates"].shape == (2, len(names["model"].sites), 4)
    assert (user_folder / "out/adapter_config.json").is_file()
    assert (user_folder / "exported/cluster_1/adapter_model.safetensors").is_file()
    with torch.no_grad():
        merged = names["merged"](**batch).logits
    assert merged.shape[0] == len(QUESTIONS)
    assert not any("mocle" in name for name in names["merged"].state_dict())


def test_the_loss_of_a_sentence_router(base: Path) -> None:
    (snippet,) = [text for text in python_snippets(DOCS / "adapter.md") if "balance_losses" in text]
    names: dict = {}
    exec(snippet, names)
    model = get_peft_model(load_model(base).model, names["sentence"]).train()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    batch, asked = {"input_ids": ids, "labels": ids}, torch.tensor([[5, 6], [8, -1]])
    torch.manual_seed(0)
    found = names["training_loss"](model, batch, asked)
    torch.manual_seed(0)
    plain = model(**batch, instruction_ids=asked).loss
    balance = model.base_model.balance_losses().mean()
    assert balance > 0
    assert found.item() == pytest.approx((plain + 0.01 * balance).item(), rel=1e-6)


def test_a_trained_model_is_exported_as_the_page_says(trained: Path, user_folder: Path) -> None:
    """A run's adapter has the projector in `modules_to_save`."""
    (snippet,) = [text for text in python_snippets(DOCS / "adapter.md") if "merge_and_unload" in text]
    names: dict = {"model": load_model(trained).model}
    exec(snippet, names)
    assert type(names["merged"]).__name__ == "LlavaForConditionalGeneration"
    assert not any("mocle" in name or "modules_to_save" in name for name in names["merged"].state_dict())
    assert (user_folder / "exported/cluster_1/adapter_model.safetensors").is_file()
