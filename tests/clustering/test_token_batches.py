import numpy as np
import pytest
import torch

from llava_mocle.clustering import token_batches
from llava_mocle.clustering.encoder import SentenceEncoder
from tests.clustering.encoders import make_tiny_encoder, question_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    return SentenceEncoder(folder, device="cpu")._model("fp32")


@pytest.fixture
def batches(model):
    """The attention masks that reach the model."""
    masks = []
    handle = model[0].register_forward_pre_hook(lambda module, args: masks.append(args[0]["attention_mask"]))
    yield masks
    handle.remove()


def reference(model, texts: list[str]) -> np.ndarray:
    return np.stack([model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts])


def test_equals_the_library_one_text_at_a_time(model, monkeypatch):
    monkeypatch.setattr(token_batches, "CPU_TOKENS", 200)
    monkeypatch.setattr(token_batches, "_TEXTS", 40)
    texts = [*question_texts(90), "", "long " * 100]
    told = []
    found = token_batches.embed_many(model, texts, told.append)
    # Other batches: measured about 1e-6.
    np.testing.assert_allclose(found, reference(model, texts), rtol=0, atol=5e-6)
    assert found.dtype == np.float32
    assert sum(told) == 92


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_cut_to_its_longest_text(side):
    lengths = [3, 7, 1, 6]
    mask = torch.tensor([[1] * length + [0] * (9 - length) for length in lengths])
    ids = mask * torch.arange(1, 5)[:, None]
    if side == "left":
        mask, ids = mask.flip(1), ids.flip(1)
    features = {"input_ids": ids, "attention_mask": mask, "modality": "text"}
    found = list(token_batches._batches(features, 4, 14))
    assert [rows.tolist() for rows, _ in found] == [[1, 3], [0, 2]]
    assert [batch["input_ids"].shape for _, batch in found] == [(2, 7), (2, 3)]
    for rows, batch in found:
        assert batch["attention_mask"].sum(dim=1).tolist() == [lengths[row] for row in rows]
        assert batch["input_ids"].amax(dim=1).tolist() == (rows + 1).tolist()
        assert batch["modality"] == "text"


def test_batches_keep_to_the_budget_and_hold_little_padding(model, monkeypatch, batches):
    monkeypatch.setattr(token_batches, "CPU_TOKENS", 300)
    texts = question_texts(200)
    token_batches.embed_many(model, texts)
    assert all(mask.numel() <= 300 for mask in batches)
    assert sum(len(mask) for mask in batches) == 200
    padding = 1 - sum(int(mask.sum()) for mask in batches) / sum(mask.numel() for mask in batches)
    assert padding < 0.1
    assert all(mask.any(dim=0).all() for mask in batches)


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(model, monkeypatch, batches):
    monkeypatch.setattr(token_batches, "CPU_TOKENS", 3)
    found = token_batches.embed_many(model, question_texts(5))
    assert [len(mask) for mask in batches] == [1] * 5
    np.testing.assert_allclose(found, reference(model, question_texts(5)), rtol=0, atol=5e-6)


def test_several_threads_give_the_same(model, monkeypatch):
    monkeypatch.setattr(token_batches, "CPU_TOKENS", 200)
    texts, before = question_texts(80), torch.get_num_threads()
    one = token_batches.embed_many(model, texts)
    try:
        torch.set_num_threads(3)
        three = token_batches.embed_many(model, texts)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(three, one, rtol=0, atol=1e-6)


def test_prompts_and_cut_embeddings_are_left_to_the_library(model, monkeypatch):
    assert token_batches.can_batch(model)
    monkeypatch.setattr(model, "truncate_dim", 8)
    assert not token_batches.can_batch(model)
    monkeypatch.setattr(model, "truncate_dim", None)
    monkeypatch.setattr(model, "prompts", {"query": "ask: "})
    monkeypatch.setattr(model, "default_prompt_name", "query")
    assert not token_batches.can_batch(model)


def test_features_that_are_no_tables_of_tokens_are_not_cut(model):
    features = {"attention_mask": torch.ones(3, 5, dtype=torch.int64), "pixels": torch.zeros(3, 2, 2)}
    ((rows, batch),) = token_batches._batches(features, 3, 5)
    assert rows.tolist() == [0, 1, 2]
    assert batch["pixels"] is features["pixels"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)],
)
def test_whether_a_cpu_computes_bf16(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert token_batches.computes_bf16("cpu") is expected
    assert token_batches.computes_bf16("mps") is False
