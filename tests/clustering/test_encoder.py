import shutil

import numpy as np
import pytest
import torch

from llava_mocle.clustering import token_batches
from llava_mocle.clustering.encoder import FP32_ERROR, SentenceEncoder
from llava_mocle.errors import AssetError
from tests.clustering.encoders import make_tiny_encoder, question_texts, real_encoder_folder, record_devices


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def forwarded(monkeypatch):
    """The batches that reach a model, as (texts, exact)."""
    batches = []
    original = SentenceEncoder._forward

    def watch(self, batch, exact):
        batches.append((list(batch), exact))
        return original(self, batch, exact)

    monkeypatch.setattr(SentenceEncoder, "_forward", watch)
    return batches


def test_shape_norm_and_order(folder):
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(70)
    embeddings = encoder.encode(texts, progress=False)
    assert embeddings.shape == (70, encoder.dim) == (70, 32)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoder.encode([text], progress=False) for text in texts[:20]])
    np.testing.assert_allclose(embeddings[:20], alone, rtol=0, atol=5e-6)
    assert encoder.encode([], progress=False).shape == (0, 32)


def test_each_distinct_text_once_and_longest_first(folder, forwarded):
    texts = question_texts(150)
    embeddings = SentenceEncoder(folder, device="cpu").encode([*texts, *texts[::-1]], progress=False)
    sent = [text for batch, _ in forwarded for text in batch]
    assert sorted(sent) == sorted(texts)
    lengths = [len(text) for text in sent]
    assert lengths == sorted(lengths, reverse=True)
    assert len(forwarded) == 3
    assert (embeddings[:150] == embeddings[150:][::-1]).all()


def test_second_run_does_not_load_the_model(folder, tmp_path, monkeypatch, forwarded):
    texts = question_texts(40)
    first = SentenceEncoder(folder, device="cpu").encode(texts, cache_dir=tmp_path, progress=False)
    exact = SentenceEncoder(folder, device="cpu").encode(texts[:3], cache_dir=tmp_path, progress=False, exact=True)
    forwarded.clear()
    more = SentenceEncoder(folder, device="cpu").encode([*texts, "one more"], cache_dir=tmp_path, progress=False)
    assert forwarded == [(["one more"], False)]
    assert (more[:40] == first).all()

    def refuse(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(SentenceEncoder, "_load", refuse)
    again = SentenceEncoder(folder).encode([*texts, "one more"], cache_dir=tmp_path, progress=False)
    assert (again == more).all()
    assert (SentenceEncoder(folder).encode(texts[:3], tmp_path, progress=False, exact=True) == exact).all()


def test_a_crash_keeps_what_was_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("llava_mocle.clustering.encoder._TEXTS_PER_SHARD", 16)
    texts = sorted(question_texts(40), key=lambda text: (-len(text), text))
    original, calls = SentenceEncoder._forward, []

    def fail_at_the_second(self, batch, exact):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, batch, exact)

    monkeypatch.setattr(SentenceEncoder, "_forward", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        SentenceEncoder(folder, device="cpu").encode(texts, cache_dir=tmp_path, progress=False)
    SentenceEncoder(folder, device="cpu").encode(texts, cache_dir=tmp_path, progress=False)
    assert [text for batch in calls[2:] for text in batch] == texts[16:]


def test_another_setting_does_not_read_the_cache(folder, tmp_path, forwarded):
    texts = ["what is the colour of the circle " * 5]
    first = SentenceEncoder(folder, device="cpu").encode(texts, cache_dir=tmp_path / "cache", progress=False)
    shorter = shutil.copytree(folder, tmp_path / "shorter")
    settings = shorter / "sentence_bert_config.json"
    assert settings.is_file()
    settings.write_text('{"max_seq_length": 8}')
    tokenizer = shorter / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace('"model_max_length": 64', '"model_max_length": 8'))
    second = SentenceEncoder(shorter, device="cpu").encode(texts, cache_dir=tmp_path / "cache", progress=False)
    assert len(forwarded) == 2
    assert np.linalg.norm(first - second) > 1e-3


def test_exact_path_is_float64_alone_and_near_the_fast_one(folder, forwarded):
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(30)
    exact = encoder.encode(texts, progress=False, exact=True)
    assert exact.dtype == np.float64
    assert all(len(batch) == 1 for batch, _ in forwarded)
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, atol=1e-14)
    drift = np.linalg.norm(exact - encoder.encode(texts, progress=False), axis=1)
    # Measured: about 1e-6. Zero would mean that this is no float64 at all.
    assert 0 < drift.max() < 1e-5


def test_settings_of_a_training_run_do_not_reach_the_encoder(folder):
    import torch

    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(20)
    expected = encoder.encode(texts, progress=False)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder.encode(texts, progress=False)
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
    assert (found == expected).all()


def test_loads_whole_weights_under_zero3(folder):
    from transformers.integrations import deepspeed

    class ZeRO3:
        config: dict = {}  # noqa: RUF012

        def is_zero3(self):
            return True

    active = ZeRO3()
    deepspeed.set_hf_deepspeed_config(active)
    try:
        assert SentenceEncoder(folder, device="cpu").encode(["a shape"], progress=False).shape == (1, 32)
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_a_folder_that_is_no_encoder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AssetError, match="cannot be loaded"):
        SentenceEncoder(tmp_path, device="cpu").encode(["a"], progress=False)


def test_the_real_encoder():
    encoder = SentenceEncoder(real_encoder_folder(), device="cpu")
    texts = ["What color is the circle?", "Which colour does the circle have?", "Is there a lesion in this slice?"]
    embeddings = encoder.encode(texts, progress=False)
    assert embeddings.shape == (3, 384)
    similarity = embeddings @ embeddings.T
    assert similarity[0, 1] > 0.8 > 0.4 > similarity[0, 2]
    drift = np.linalg.norm(encoder.encode(texts, progress=False, exact=True) - embeddings, axis=1)
    assert 0 < drift.max() < 5e-6


def test_many_texts_are_tokenized_once_and_batched_by_tokens(folder, tmp_path, monkeypatch, forwarded):
    monkeypatch.setattr("llava_mocle.clustering.encoder._MANY", 100)
    monkeypatch.setattr("llava_mocle.clustering.encoder._TEXTS_PER_SHARD", 64)
    encoder = SentenceEncoder(folder, device="cpu")
    texts = [*question_texts(150), *question_texts(20)]
    many = encoder.encode(texts, cache_dir=tmp_path, progress=False)
    assert forwarded == []
    few = np.concatenate([encoder.encode([text], progress=False) for text in texts])
    # Other batches: measured about 1e-6.
    np.testing.assert_allclose(many, few, rtol=0, atol=5e-6)
    assert (SentenceEncoder(folder).encode(texts, cache_dir=tmp_path, progress=False) == many).all()


@pytest.fixture
def bf16_here(monkeypatch):
    """A machine that seems to compute in bf16; any machine can, if slowly."""
    monkeypatch.setattr("llava_mocle.clustering.encoder._MANY", 100)
    monkeypatch.setattr(token_batches, "computes_bf16", lambda device: True)


def test_the_error_of_many_texts_in_bf16_is_known(folder, tmp_path, bf16_here):
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(150)
    rough, error = encoder.encode_rough(texts, cache_dir=tmp_path, progress=False)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-6)
    off = np.linalg.norm(rough - encoder.encode(texts, progress=False, exact=True), axis=1)
    assert 1e-3 < off.max() <= error <= 0.05
    again, same = SentenceEncoder(folder).encode_rough(texts, cache_dir=tmp_path, progress=False)
    assert (again == rough).all()
    assert same == error


def test_few_texts_and_those_without_bf16_are_encoded_in_float32(folder, monkeypatch, bf16_here):
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(150)
    fine, error = encoder.encode_rough(texts[:99], progress=False)
    assert error == FP32_ERROR
    assert (fine == encoder.encode(texts[:99], progress=False)).all()
    monkeypatch.setattr(token_batches, "computes_bf16", lambda device: False)
    assert SentenceEncoder(folder, device="cpu").encode_rough(texts, progress=False)[1] == FP32_ERROR


def test_bf16_that_is_too_rough_is_not_used(folder, monkeypatch, bf16_here, caplog):
    monkeypatch.setattr("llava_mocle.clustering.encoder._TOO_ROUGH", 1e-3)
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(120)
    found, error = encoder.encode_rough(texts, progress=False)
    assert error == FP32_ERROR
    assert (found == encoder.encode(texts, progress=False)).all()
    assert "encoding in float32" in caplog.text


def test_a_large_result_is_in_a_file(folder, monkeypatch, tmp_path):
    texts = question_texts(30)
    expected = SentenceEncoder(folder, device="cpu").encode([*texts, *texts], progress=False)
    monkeypatch.setattr("llava_mocle.clustering.embedding_cache._IN_MEMORY", 1000)
    found = SentenceEncoder(folder, device="cpu").encode([*texts, *texts], cache_dir=tmp_path, progress=False)
    assert isinstance(found, np.memmap)
    assert (found == expected).all()


@pytest.mark.parametrize(("device", "expected"), [(None, "cuda"), ("cpu", "cpu"), (torch.device("cuda", 3), "cuda:3")])
def test_the_device_is_the_one_that_was_chosen(folder, monkeypatch, device, expected):
    asked = record_devices(monkeypatch)
    encoder = SentenceEncoder(folder, device)
    encoder.encode(["a shape"], progress=False)
    encoder.encode(["a shape"], progress=False, exact=True)
    assert asked == [expected, "cpu"]
