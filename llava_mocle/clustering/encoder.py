"""Texts -> unit-norm sentence embeddings: deduplicated, length-sorted, cached.

The last bits of an embedding depend on the batch it was computed in, on the device and on the number of threads.
`encode` is the fast path (float32, padded batches, any device). `encode(exact=True)` computes every text alone in
float64 on the CPU: what it gives does not depend on its neighbours. `ClusterModel.assign` asks for it wherever the fast
path's error could change a cluster id.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llava_mocle.clustering import encoder_files
from llava_mocle.clustering.embedding_cache import EmbeddingCache
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER
from llava_mocle.errors import AssetError
from llava_mocle.io.progress import progress as reported

if TYPE_CHECKING:
    import torch

# Texts between two writes to the cache: what a crash may cost.
_TEXTS_PER_SHARD = 4096


class Encoder(Protocol):
    """What clustering needs of an encoder."""

    name: str

    @property
    def weight_hash(self) -> str: ...

    def encode(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True, exact: bool = False
    ) -> np.ndarray: ...


class SentenceEncoder:
    """A sentence-transformers model, loaded when the first text that is not cached is encoded.

    Args:
        name_or_path: a folder or a model name; see `find_encoder` for where it is looked for.
        device: torch device of the fast path, or its name; default "cuda" where there is one, else "cpu".
        batch_size: texts a batch of the fast path; default 256 on a GPU, 64 on a CPU.

    Raises:
        AssetError: the encoder was not found or cannot be loaded.
    """

    def __init__(
        self,
        name_or_path: str | Path = DEFAULT_ENCODER,
        device: "str | torch.device | None" = None,
        batch_size: int | None = None,
    ) -> None:
        self.name = str(name_or_path)
        self.folder = encoder_files.find_encoder(self.name)
        self._device = None if device is None else str(device)
        self._batch_size = batch_size

    @cached_property
    def weight_hash(self) -> str:
        """SHA-256 of the weight file's content."""
        return encoder_files.weight_hash(self.folder)

    @cached_property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self._fast_model.get_embedding_dimension())

    def encode(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True, exact: bool = False
    ) -> np.ndarray:
        """Return (N, D) embeddings of unit norm: float32, or float64 with `exact`.

        Each distinct text is encoded once, the longest first. With `cache_dir`, texts found there are not encoded at
        all, and new ones are stored as they come.
        """
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        dtype = np.float64 if exact else np.float32
        if not distinct:
            return np.empty((0, self.dim), dtype=dtype)
        cache = None
        known: dict[str, np.ndarray] = {}
        if cache_dir is not None:
            cache = EmbeddingCache(cache_dir, self._content_hash, "fp64" if exact else "fp32")
            known = cache.read(distinct)
        missing = [text for text in distinct if text not in known]
        for part, embeddings in self._encode_parts(missing, progress, exact):
            known.update(zip(part, embeddings, strict=True))
            if cache is not None:
                cache.write(part, embeddings)
        result = np.empty((len(texts), len(known[distinct[0]])), dtype=dtype)
        for index, text in enumerate(texts):
            result[index] = known[text]
        return result

    def _encode_parts(self, texts: list[str], progress: bool, exact: bool) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (texts, their embeddings) in parts of `_TEXTS_PER_SHARD`."""
        if not texts:
            return
        on_gpu = not exact and str(self._fast_model.device).startswith("cuda")
        size = 1 if exact else self._batch_size or (256 if on_gpu else 64)
        label = "encoding (float64)" if exact else "encoding"
        with reported(len(texts), label, "text", shown=progress) as bar:
            for start in range(0, len(texts), _TEXTS_PER_SHARD):
                part = texts[start : start + _TEXTS_PER_SHARD]
                done = []
                for begin in range(0, len(part), size):
                    batch = part[begin : begin + size]
                    done.append(self._forward(batch, exact))
                    bar.update(len(batch))
                yield part, np.concatenate(done)

    def _forward(self, batch: list[str], exact: bool) -> np.ndarray:
        model = self._exact_model if exact else self._fast_model
        with _full_precision(str(model.device).split(":")[0]):
            embeddings = model.encode(
                batch, batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
        return np.asarray(embeddings, dtype=np.float64 if exact else np.float32)

    @cached_property
    def _content_hash(self) -> str:
        return encoder_files.content_hash(self.folder)

    @cached_property
    def _fast_model(self) -> Any:
        import torch

        return self._load(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def _exact_model(self) -> Any:
        return self._load("cpu").double()

    def _load(self, device: str) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            with outside_zero3():
                return SentenceTransformer(
                    str(self.folder), device=device, local_files_only=True, model_kwargs={"dtype": torch.float32}
                ).eval()
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise AssetError(
                f"{self.folder}: cannot be loaded as a sentence encoder ({type(error).__name__}: {error}); expected a "
                "sentence-transformers folder (modules.json, weights, tokenizer): fetch it again or name another"
            ) from error
        finally:
            if bars:
                logging.enable_progress_bar()


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Compute in the tensors' own precision, whatever the training run around it chose (autocast, TF32, bf16 matmul).

    Under autocast bf16 an embedding moves by 1e-2 in norm; in full float32 by about 1e-6.
    """
    import torch

    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


@contextmanager
def outside_zero3() -> Iterator[None]:
    """Load whole weights: under an active ZeRO-3 configuration transformers would partition them over the ranks."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    active = reference() if reference is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if active is not None:
            deepspeed.set_hf_deepspeed_config(active)
