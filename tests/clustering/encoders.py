"""Encoders for tests: a fake one that counts, a tiny random one that is real code, and the real one where it exists."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from llava_mocle.clustering.encoder import FP32_ERROR
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER, find_encoder
from llava_mocle.errors import AssetError


class FakeEncoder:
    """Embeds a text by its hash. The fast path is off by `noise` in norm, another way at every call.

    `calls` holds every text that was asked for, in order, apart from those of the exact path and of the rough one,
    which `exact_calls` and `rough_calls` hold. The rough path is off by `roughness` in norm; 0 makes it the fast path.
    """

    def __init__(self, dim: int = 8, noise: float = 0.0, weight_hash: str = "fake", roughness: float = 0.0) -> None:
        self.name = f"fake-{weight_hash}"
        self.dim = dim
        self.weight_hash = weight_hash
        self.calls: list[str] = []
        self.exact_calls: list[str] = []
        self.rough_calls: list[str] = []
        self._noise, self._roughness = noise, roughness
        self._generator = np.random.default_rng(0)

    def encode(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True, exact: bool = False
    ) -> np.ndarray:
        (self.exact_calls if exact else self.calls).extend(texts)
        embeddings = np.stack([self._embed(text) for text in texts]) if len(texts) else np.empty((0, self.dim))
        if exact:
            return embeddings
        return self._disturbed(embeddings, self._noise)

    def encode_rough(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True
    ) -> tuple[np.ndarray, float]:
        if not self._roughness:
            return self.encode(texts, cache_dir, progress), FP32_ERROR
        self.rough_calls.extend(texts)
        embeddings = np.stack([self._embed(text) for text in texts])
        return self._disturbed(embeddings, self._roughness), self._roughness * 1.01

    def _disturbed(self, embeddings: np.ndarray, size: float) -> np.ndarray:
        error = self._generator.standard_normal(embeddings.shape)
        error *= size / np.maximum(np.linalg.norm(error, axis=1, keepdims=True), 1e-12)
        return (embeddings + error).astype(np.float32)

    def _embed(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self.dim)
        return vector / np.linalg.norm(vector)


def make_tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a sentence-transformers folder with a random two-layer BERT, D = 32, lower-casing, 64 tokens at most."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder.parent / f"{folder.name}-parts"
    source.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [str(digit) for digit in range(10)] + list("?.,!")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(source)
    BertTokenizerFast(str(source / "vocab.txt"), model_max_length=64).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder), create_model_card=False)
    return folder


def record_devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where sentence-transformers is asked to load an encoder from now on, on a machine that seems to have GPUs.

    An encoder's fast path is loaded before its exact one, which always asks for the CPU. Both are loaded there.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    asked: list[str] = []

    def load(folder: str, device: str, **options):
        asked.append(device)
        return SentenceTransformer(folder, device="cpu", **options)

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return asked


def real_encoder_folder() -> Path:
    """Return the default encoder's folder, or skip the test."""
    try:
        return find_encoder(DEFAULT_ENCODER)
    except AssetError as error:
        pytest.skip(f"needs the real sentence encoder: {str(error).splitlines()[0]}")


def question_texts(number: int, seed: int = 0, longest: int = 23) -> list[str]:
    """Return `number` distinct questions of 2 to `longest` words."""
    generator = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < number:
        length = int(generator.integers(2, longest + 1))
        texts[" ".join(generator.choice(_WORDS, length)) + "?"] = None
    return list(texts)


_WORDS = (
    *("what", "is", "the", "colour", "of", "this", "shape", "angle", "triangle", "length"),
    *("scan", "brain", "slice", "lesion", "cat", "dog", "two", "left"),
)
