"""Embeddings that may be off -> cluster ids that the exact path gives.

Embeddings of the fast path differ from the exact ones by about 1e-6 in norm, depending on batch, device and threads; in
bfloat16, by about 1e-2. So near a border between two clusters the id would depend on them too. Therefore an embedding
decides only where no error that it may have could change the id. Elsewhere the text is embedded again, more exactly.

If an embedding moves by d, each distance moves by at most d, so a lead above 2 d cannot turn. Of embeddings in bfloat16
that rule would send back a third; how far they are from the border itself is worth measuring there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava_mocle.clustering.encoder import FP32_ERROR, Encoder
from llava_mocle.clustering.nearest import border_distances, nearest_exact, nearest_with_margin


def decide(
    encoder: Encoder,
    centroids: np.ndarray,
    texts: Sequence[str],
    embeddings: np.ndarray,
    error: float,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (cluster ids (N,) int64, distances (N,) float64).

    Args:
        encoder: asked for the texts that need more digits.
        centroids: (K, D).
        embeddings: (N, D) of the texts.
        error: how far each may be off in norm: `FP32_ERROR`, or more.
    """
    ids, distances, margins = nearest_with_margin(embeddings, centroids, close=2 * FP32_ERROR)
    close = np.flatnonzero(margins < 2 * error)
    rough = error > FP32_ERROR
    if rough:
        close = close[border_distances(embeddings[close], ids[close], centroids) <= error]
    if not len(close):
        return ids, distances
    chosen = [texts[index] for index in close.tolist()]
    finer = encoder.encode(chosen, cache_dir=cache_dir, progress=progress, exact=not rough)
    if rough:
        ids[close], distances[close] = decide(encoder, centroids, chosen, finer, FP32_ERROR, cache_dir, progress)
    else:
        ids[close], distances[close] = nearest_exact(finer, centroids)
    return ids, distances
