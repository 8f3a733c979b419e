"""Embeddings kept on disk, keyed by content, in shards that are written aside and renamed.

Several processes may read and write one cache at once. A shard appears whole and is never changed, and two writers
store the same text twice at worst.
"""

import hashlib
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llava_mocle.io.cache import cache_root
from llava_mocle.io.files import written_aside

_KEY_BYTES = 32


def default_cache_dir() -> Path:
    """Return the folder of embeddings below `cache_root()`."""
    return cache_root() / "embeddings"


class EmbeddingCache:
    """The embeddings that one encoder gave in one precision.

    Args:
        root: the cache folder, shared by all encoders.
        content_hash: what decides an embedding apart from its text.
        precision: "fp32" or "fp64".
    """

    def __init__(self, root: str | Path, content_hash: str, precision: str) -> None:
        self.folder = Path(root).expanduser() / content_hash[:32] / precision
        self._dtype = {"fp32": np.float32, "fp64": np.float64}[precision]
        self._writable = True

    def read(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings, each (D,), of those of `texts` that are stored; a damaged shard is skipped."""
        wanted = {_key(text): text for text in texts}
        found: dict[str, np.ndarray] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            if not wanted:
                break
            try:
                self._read_shard(shard, wanted, found)
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(
                    f"{shard}: skipped a damaged part of the embedding cache ({error}); delete it", stacklevel=2
                )
        return found

    def _read_shard(self, shard: Path, wanted: dict[bytes, str], found: dict[str, np.ndarray]) -> None:
        with safe_open(str(shard), framework="numpy") as tensors:
            keys = tensors.get_tensor("keys")
            hits = [(index, key.tobytes()) for index, key in enumerate(keys) if key.tobytes() in wanted]
            if not hits:
                return
            embeddings = tensors.get_tensor("embeddings")
        if embeddings.dtype != self._dtype or embeddings.ndim != 2 or len(embeddings) != len(keys):
            raise ValueError(f"embeddings are {embeddings.dtype} {embeddings.shape} for {len(keys)} keys")
        for index, key in hits:
            if key in wanted:
                found[wanted.pop(key)] = embeddings[index].copy()

    def write(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        """Store `embeddings` (N, D) of N texts as one new shard. A disk that cannot take them costs a warning only."""
        if not texts or not self._writable:
            return
        keys = np.frombuffer(b"".join(map(_key, texts)), dtype=np.uint8).reshape(-1, _KEY_BYTES)
        tensors = {"keys": keys, "embeddings": np.ascontiguousarray(embeddings, dtype=self._dtype)}
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        try:
            with written_aside(shard) as aside:
                save_file(tensors, aside)
        except (OSError, SafetensorError) as error:
            self._writable = False
            warnings.warn(f"{self.folder}: embeddings are not cached ({error})", stacklevel=2)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
