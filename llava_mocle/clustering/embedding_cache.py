"""Embeddings kept on disk, keyed by content, in shards that are written aside and renamed.

Several processes may read and write one cache at once. A shard appears whole and is never changed, and two writers
store the same text twice at worst.
"""

import hashlib
import tempfile
import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llava_mocle.io.cache import cache_root
from llava_mocle.io.files import written_aside

_KEY_BYTES = 32
# Bytes of embeddings that are held in memory; more are in a file.
_IN_MEMORY = 2 << 30


def default_cache_dir() -> Path:
    """Return the folder of embeddings below `cache_root()`."""
    return cache_root() / "embeddings"


class EmbeddingCache:
    """The embeddings that one encoder gave in one precision.

    Args:
        root: the cache folder, shared by all encoders.
        content_hash: what decides an embedding apart from its text.
        precision: in which they were computed: "bf16", "fp32" or "fp64".
    """

    def __init__(self, root: str | Path, content_hash: str, precision: str) -> None:
        self.folder = Path(root).expanduser() / content_hash[:32] / precision
        self._dtype = np.float64 if precision == "fp64" else np.float32
        self._writable = True

    def dim(self) -> int | None:
        """D of the embeddings that are stored; None if there are none."""
        for shard in self._shards():
            try:
                with safe_open(str(shard), framework="numpy") as tensors:
                    return int(tensors.get_slice("embeddings").get_shape()[1])
            except (SafetensorError, OSError, IndexError):
                continue
        return None

    def read(self, texts: Sequence[str], rows: np.ndarray, result: np.ndarray) -> np.ndarray:
        """Put the embedding of each text that is stored into `result` (N, D), at the text's row; say which were not.

        A damaged shard is skipped.

        Args:
            texts: T distinct texts.
            rows: (T,) their rows in `result`.

        Returns:
            (M,) places in `texts` of those that are not stored, in order.
        """
        missing = np.ones(len(texts), dtype=bool)
        shards = self._shards()
        if not shards or not texts:
            return np.flatnonzero(missing)
        keys = _keys(texts)
        heads = _heads(keys)
        order = np.argsort(heads)
        heads = heads[order]
        for shard in shards:
            try:
                with safe_open(str(shard), framework="numpy") as tensors:
                    stored = tensors.get_tensor("keys")
                    at = np.searchsorted(heads, _heads(stored)).clip(max=len(heads) - 1)
                    hits = np.flatnonzero((keys[order[at]] == stored).all(axis=1))
                    if len(hits):
                        self._take(tensors.get_tensor("embeddings"), stored, hits, rows[order[at[hits]]], result)
                        missing[order[at[hits]]] = False
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(
                    f"{shard}: skipped a damaged part of the embedding cache ({error}); delete it", stacklevel=2
                )
        return np.flatnonzero(missing)

    def _take(
        self, embeddings: np.ndarray, stored: np.ndarray, hits: np.ndarray, rows: np.ndarray, result: np.ndarray
    ) -> None:
        if embeddings.dtype != self._dtype or embeddings.shape != (len(stored), result.shape[1]):
            raise ValueError(f"embeddings are {embeddings.dtype} {embeddings.shape} for {len(stored)} keys")
        result[rows] = embeddings[hits]

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        """Store `embeddings` (N, D) of N texts as one new shard. A disk that cannot take them costs a warning only."""
        if not texts or not self._writable:
            return
        tensors = {"keys": _keys(texts), "embeddings": np.ascontiguousarray(embeddings, dtype=self._dtype)}
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            with written_aside(shard) as aside:
                save_file(tensors, aside)
        except (OSError, SafetensorError) as error:
            self._writable = False
            warnings.warn(f"{self.folder}: embeddings are not cached ({error})", stacklevel=2)


def new_table(shape: tuple[int, int], dtype: type, folder: str | Path | None = None) -> np.ndarray:
    """An array for embeddings: in memory, or, where it is large, in a file without a name that goes with the array.

    Args:
        folder: where the file is; default, and where that cannot be written: the system's folder for temporary files.
    """
    if shape[0] * shape[1] * np.dtype(dtype).itemsize <= _IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    if folder is not None:
        with suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                return np.memmap(file, dtype, "w+", shape=shape)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _keys(texts: Sequence[str]) -> np.ndarray:
    joined = b"".join(hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, _KEY_BYTES)


def _heads(keys: np.ndarray) -> np.ndarray:
    """The first eight bytes of each key, as a number. If two keys share them, a text may be encoded again."""
    return np.ascontiguousarray(keys[:, :8]).view("<u8").ravel()
