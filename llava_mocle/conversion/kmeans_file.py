"""The centroids of a k-means that scikit-learn fitted and joblib wrote, read without executing anything of the file."""

import bz2
import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.conversion.inert_pickle import Array, InertReader, Record, Refused
from llava_mocle.errors import ClusterModelError
from llava_mocle.io.paths import looked_for, why_no_file

# Decompressed. A label for each of the 15 million rows of InstructBLIP's data takes 60 MiB.
_MOST_BYTES = 512 * 2**20
# What xz may ask for to decompress; the highest preset takes 65 MiB.
_XZ_MEMORY = 256 * 2**20
_KMEANS = {
    "sklearn.cluster._kmeans.KMeans",
    "sklearn.cluster._kmeans.MiniBatchKMeans",
    "sklearn.cluster.k_means_.KMeans",  # before scikit-learn 0.22
    "sklearn.cluster.k_means_.MiniBatchKMeans",
}
_REMEDY = "give the file that `joblib.dump` wrote of a fitted scikit-learn KMeans (the authors' `kmeans_ckpt`)"


def read_centroids(path: Path) -> np.ndarray:
    """The centroids (K, D) of a k-means file, float32, in the order of its cluster ids.

    joblib's files are read (uncompressed, zlib, gzip, bz2, xz, lzma; pickle protocols 2 to 5), and plain pickles.

    Raises:
        ClusterModelError: there is no such file, it holds something else than a fitted k-means, or is damaged.
    """
    if (reason := why_no_file(path)) is not None:
        raise ClusterModelError(f"{path}: {reason}{looked_for(path)}; {_REMEDY}")
    try:
        found = InertReader(_decompressed(path.read_bytes()), _KMEANS).read()
    except Refused as error:
        raise ClusterModelError(
            f"{path}: is not read as a k-means: {error}. Nothing of it was executed; {_REMEDY}"
        ) from error
    if not isinstance(found, Record) or found.name not in _KMEANS:
        raise ClusterModelError(f"{path}: holds no k-means, but a {type(found).__name__}; {_REMEDY}")
    return _centroids(path, found.state.get("cluster_centers_"))


def _centroids(path: Path, value: Any) -> np.ndarray:
    values = value.values if isinstance(value, Array) else None
    if values is None:
        raise ClusterModelError(f"{path}: its k-means has no cluster_centers_, so it was never fitted; {_REMEDY}")
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ClusterModelError(
            f"{path}: cluster_centers_ has shape {values.shape} and dtype {values.dtype}; expected a (K, D) matrix of "
            f"finite numbers; {_REMEDY}"
        )
    return values.astype(np.float32)


def _decompressed(content: bytes) -> bytes:
    """The pickle in a file; joblib's compressors are known by their first bytes.

    Raises:
        Refused: the compressed data are damaged, or hold too much.
    """
    if content.startswith(b"ZF"):
        raise Refused("it is of joblib 0.9 or older, whose arrays lie in files of their own")
    try:
        if content.startswith((b"\x1f\x8b", b"\x78")):
            unpacker: Any = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of both headers
        elif content.startswith(b"BZ"):
            unpacker = bz2.BZ2Decompressor()
        elif content.startswith((b"\xfd7zXZ", b"\x5d\x00")):
            unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        elif content.startswith(b"\x04\x22\x4d\x18"):
            raise Refused("it is compressed with lz4; write it again with another compression")
        else:
            return content
        unpacked = unpacker.decompress(content, _MOST_BYTES + 1)
        if len(unpacked) > _MOST_BYTES:
            raise Refused(f"it holds more than {_MOST_BYTES // 2**20} MiB, which no k-means needs")
        if not unpacker.eof:
            raise Refused("its compressed data end too early")
    except (OSError, zlib.error, lzma.LZMAError, EOFError, ValueError, MemoryError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"its compressed data are damaged ({error})") from error
    return unpacked
