"""Texts -> unit-norm sentence embeddings: deduplicated, length-sorted, cached.

The last bits of an embedding depend on the batch it was computed in, on the device and on the number of threads.
`encode` is the fast path (float32, padded batches, any device). `encode(exact=True)` computes every text alone in
float64 on the CPU: what it gives does not depend on its neighbours. `encode_rough` computes many texts in bfloat16,
where the hardware has it, and says how far they may be off. `ClusterModel.assign` asks for more digits wherever an
error could change a cluster id.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from llava_mocle.clustering import encoder_files, token_batches
from llava_mocle.clustering.embedding_cache import EmbeddingCache, new_table
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER
from llava_mocle.errors import AssetError
from llava_mocle.io.progress import progress as reported

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Texts between two writes to the cache: what a crash may cost.
_TEXTS_PER_SHARD = 4096
# From so many texts on, it pays to tokenize them all before they are batched, and to load the encoder in bf16 too.
_MANY = 4096
# How far float32 embeddings may be off, in norm. Measured: about 1e-6.
FP32_ERROR = 5e-5
# Texts that are embedded in both precisions to see how far bf16 is off, and how much farther another text may be.
_COMPARED, _BEYOND = 64, 1.5
# An error in norm with which bf16 would decide too little.
_TOO_ROUGH = 0.05


Precision = Literal["bf16", "fp32", "fp64"]


class Encoder(Protocol):
    """What clustering needs of an encoder."""

    name: str

    @property
    def weight_hash(self) -> str: ...

    def encode(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True, exact: bool = False
    ) -> np.ndarray: ...

    def encode_rough(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True
    ) -> tuple[np.ndarray, float]: ...


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
        self._models: dict[Precision, Any] = {}

    @cached_property
    def weight_hash(self) -> str:
        """SHA-256 of the weight file's content."""
        return encoder_files.weight_hash(self.folder)

    @cached_property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self._model("fp32").get_embedding_dimension())

    def encode(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True, exact: bool = False
    ) -> np.ndarray:
        """Return (N, D) embeddings of unit norm: float32, or float64 with `exact`.

        Each distinct text is encoded once, the longest first. With `cache_dir`, texts found there are not encoded at
        all, and new ones are stored as they come.
        """
        return self._encode(texts, "fp64" if exact else "fp32", cache_dir, progress)

    def encode_rough(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = True
    ) -> tuple[np.ndarray, float]:
        """Return ((N, D) float32 embeddings of unit norm, how far each may be off in norm).

        Many texts are computed in bfloat16 where the device has arithmetic for it: about 0.01 off, which is measured on
        some of them. Others are computed in float32.
        """
        if len(texts) < _MANY or not self._computes_bf16:
            return self.encode(texts, cache_dir, progress), FP32_ERROR
        embeddings = self._encode(texts, "bf16", cache_dir, progress)
        some = np.unique(np.linspace(0, len(texts) - 1, _COMPARED).astype(int))
        finer = self.encode([texts[index] for index in some], cache_dir, progress=False)
        error = _BEYOND * float(np.linalg.norm(embeddings[some] - finer, axis=1).max()) + FP32_ERROR
        if not error <= _TOO_ROUGH:
            logger.warning("encoding in float32: %s in bf16 is off by up to %.2g", self.name, error)
            return self.encode(texts, cache_dir, progress), FP32_ERROR
        return embeddings, error

    @cached_property
    def _computes_bf16(self) -> bool:
        device = self._fast_device
        found = token_batches.computes_bf16(device)
        logger.info("many texts are encoded in %s: %s", *(("bf16", device) if found else ("float32", "no bf16 here")))
        return found

    def _encode(
        self, texts: Sequence[str], precision: Precision, cache_dir: str | Path | None, progress: bool
    ) -> np.ndarray:
        row_of: dict[str, int] = {}
        for index, text in enumerate(texts):
            row_of.setdefault(text, index)
        distinct = sorted(row_of, key=lambda text: (-len(text), text))
        rows = np.fromiter((row_of[text] for text in distinct), dtype=np.int64, count=len(distinct))
        cache = None if cache_dir is None else EmbeddingCache(cache_dir, self._content_hash, precision)
        dim = (cache.dim() if cache is not None else None) or int(self._model(precision).get_embedding_dimension())
        result = new_table((len(texts), dim), np.float64 if precision == "fp64" else np.float32, cache_dir)
        missing = np.arange(len(distinct)) if cache is None else cache.read(distinct, rows, result)
        done = 0
        for part, embeddings in self._encode_parts([distinct[place] for place in missing], progress, precision):
            result[rows[missing[done : done + len(part)]]] = embeddings
            done += len(part)
            if cache is not None:
                cache.write(part, embeddings)
        if len(distinct) < len(texts):
            for index, text in enumerate(texts):
                if row_of[text] != index:
                    result[index] = result[row_of[text]]
        return result

    def _encode_parts(
        self, texts: list[str], progress: bool, precision: Precision
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (texts, their embeddings) in parts of `_TEXTS_PER_SHARD`."""
        if not texts:
            return
        exact = precision == "fp64"
        model = self._model(precision)
        together = not exact and len(texts) >= _MANY and token_batches.can_batch(model)
        size = 1 if exact else self._batch_size or (256 if model.device.type == "cuda" else 64)
        label = "encoding (float64)" if exact else "encoding"
        with reported(len(texts), label, "text", shown=progress) as bar:
            for start in range(0, len(texts), _TEXTS_PER_SHARD):
                part = texts[start : start + _TEXTS_PER_SHARD]
                if together:
                    with _full_precision(model.device.type):
                        embeddings = token_batches.embed_many(model, part, bar.update)
                    yield part, embeddings
                    continue
                done = []
                for begin in range(0, len(part), size):
                    batch = part[begin : begin + size]
                    done.append(self._forward(batch, exact))
                    bar.update(len(batch))
                yield part, np.concatenate(done)

    def _forward(self, batch: list[str], exact: bool) -> np.ndarray:
        model = self._model("fp64" if exact else "fp32")
        with _full_precision(model.device.type):
            embeddings = model.encode(
                batch, batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
        return np.asarray(embeddings, dtype=np.float64 if exact else np.float32)

    @cached_property
    def _content_hash(self) -> str:
        return encoder_files.content_hash(self.folder)

    @property
    def _fast_device(self) -> str:
        import torch

        return self._device or ("cuda" if torch.cuda.is_available() else "cpu")

    def _model(self, precision: Precision) -> Any:
        """The encoder in this precision; loaded once."""
        if precision not in self._models:
            model = self._load("cpu" if precision == "fp64" else self._fast_device)
            self._models[precision] = {"bf16": model.bfloat16, "fp32": model.float, "fp64": model.double}[precision]()
        return self._models[precision]

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


def recorded_encoder(name: str, weight_hash: str, device: "str | torch.device | None" = None) -> SentenceEncoder:
    """The encoder of a record; else, as its path may be another machine's, one of its name or the default one.

    Args:
        name: the folder or the name that was recorded.
        weight_hash: which a stand-in must have. The caller checks that of the recorded one.

    Raises:
        AssetError: none of them is here with the same weights.
    """
    try:
        return SentenceEncoder(name, device)
    except AssetError as missing:
        for stand_in in dict.fromkeys([Path(name).name, DEFAULT_ENCODER]):
            folder = encoder_files.find_local_encoder(stand_in)
            if folder is None:
                continue
            with suppress(AssetError):
                other = SentenceEncoder(folder, device)
                if other.weight_hash == weight_hash:
                    return other
        raise missing
