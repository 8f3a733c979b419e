"""What a fit is asked for, as one hash: the same request need not be fitted twice."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import DataError

# Raised when the algorithm changes so that the same data would give other clusters.
_FIT_VERSION = 1


def weigh(texts: Sequence[str], weights: Iterable[float] | None = None) -> dict[str, float]:
    """Return distinct text -> summed weight, sorted by text, so that the order of rows changes nothing.

    Raises:
        DataError: no text at all, or a weight that is not positive.
    """
    if not texts:
        raise DataError("there are no rows to cluster")
    total: dict[str, float] = {}
    for text, weight in zip(texts, [1.0] * len(texts) if weights is None else weights, strict=True):
        if not weight > 0:
            raise DataError(f"a row weighs {weight}, expected more than 0")
        total[text] = total.get(text, 0.0) + float(weight)
    return dict(sorted(total.items()))


def fit_request(
    weight_of: Mapping[str, float],
    num_clusters: int,
    seed: int,
    n_init: int,
    rule: InstructionRule,
    encoder_weight_hash: str,
) -> str:
    """Return the hash of everything that decides the outcome of a fit."""
    settings = [_FIT_VERSION, num_clusters, seed, n_init, rule.turns, rule.version, encoder_weight_hash]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for text, weight in sorted(weight_of.items()):
        digest.update(json.dumps([text, weight]).encode())
    return digest.hexdigest()[:32]
