"""What a cluster model says about itself: config.json, entries of examples.jsonl, and the hashes that identify it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.clustering.instruction import RULE_VERSION, InstructionRule, check_texts
from llava_mocle.errors import ClusterModelError, DataError, UserError
from llava_mocle.io.jsonl import read_json

KIND = "llava_mocle_cluster_model"
FORMAT_VERSION = 1
# Increased when a change of the algorithm makes an existing clustering of the same data wrong. A change that makes
# another one as good does not count: a folder that is there stays in use, and runs trained with it go on.
_FIT_VERSION = 1


@dataclass(frozen=True)
class Example:
    """An instruction near a centroid: how often it occurs in the fitted data, and its distance."""

    cluster: int
    text: str
    count: float
    distance: float


@dataclass
class ClusterConfig:
    """config.json of a cluster model.

    `encoder` is the name of the encoder at the fit; what is checked is `encoder_weight_hash`. `fit` holds statistics:
    request (a hash of the data and settings), num_rows, num_instructions, num_distinct, inertia, iterations,
    distance_quantiles (see `training_distances`). It is empty where another program fitted the centroids.
    """

    encoder: str
    encoder_weight_hash: str
    dim: int
    num_clusters: int
    seed: int = 0
    n_init: int = 10
    normalize: bool = True
    instruction_turns: str = "first"
    instruction_rule_version: int = RULE_VERSION
    fingerprint: str = ""
    fit: dict[str, Any] = field(default_factory=dict)
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "ClusterConfig":
        """Read and check config.json.

        Raises:
            ClusterModelError: missing, damaged, of another kind, format or rule version, or with a wrong field.
        """
        values = read_json(path, "a cluster model folder is what `llava-mocle cluster` writes", ClusterModelError)
        if values.get("kind") != KIND:
            raise ClusterModelError(f"{path}: not a cluster model: expected the field kind = {KIND!r}")
        if values.get("format_version") != FORMAT_VERSION:
            raise ClusterModelError(
                f"{path}: format_version is {values.get('format_version')!r}, this release reads {FORMAT_VERSION}: use "
                "the release that wrote it, or run `llava-mocle cluster` again"
            )
        _check_fields(path, values)
        return cls(**values)


def fingerprint(config: ClusterConfig, centroids: np.ndarray) -> str:
    """Return what identifies a clustering: two cluster models with one fingerprint give every text the same id."""
    parts = [config.encoder_weight_hash, config.normalize, config.instruction_turns, config.instruction_rule_version]
    digest = hashlib.sha256(json.dumps([*parts, *centroids.shape]).encode())
    digest.update(np.ascontiguousarray(centroids, dtype="<f4").tobytes())
    return digest.hexdigest()[:32]


def weigh(texts: Sequence[str], weights: Iterable[float] | None = None) -> dict[str, float]:
    """Return distinct text -> summed weight, sorted by text, so that the order of rows changes nothing.

    Raises:
        DataError: no text at all, one that UTF-8 cannot hold, or a weight that is not positive.
    """
    if not texts:
        raise DataError("there are no rows to cluster")
    total: dict[str, float] = {}
    for text, weight in zip(texts, [1.0] * len(texts) if weights is None else weights, strict=True):
        if not weight > 0:
            raise DataError(f"a row weighs {weight}, expected more than 0")
        total[text] = total.get(text, 0.0) + float(weight)
    check_texts(total)
    return dict(sorted(total.items()))


def fit_request(
    weight_of: Mapping[str, float],
    num_clusters: int,
    seed: int,
    n_init: int,
    rule: InstructionRule,
    encoder_weight_hash: str,
) -> str:
    """Return the hash of everything that decides the outcome of a fit, so that none is repeated."""
    settings = [_FIT_VERSION, num_clusters, seed, n_init, rule.turns, rule.version, encoder_weight_hash]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for text, weight in sorted(weight_of.items()):
        digest.update(json.dumps([text, weight]).encode())
    return digest.hexdigest()[:32]


def _check_fields(path: Path, values: Mapping[str, Any]) -> None:
    fields = {item.name: item for item in dataclasses.fields(ClusterConfig)}
    if unknown := sorted(set(values) - set(fields)):
        raise ClusterModelError(f"{path}: unknown field {unknown[0]!r}; run `llava-mocle cluster` again")
    for name, item in fields.items():
        if name not in values:
            raise ClusterModelError(f"{path}: field {name!r} is missing; run `llava-mocle cluster` again")
        expected = item.type if isinstance(item.type, type) else dict
        if not isinstance(values[name], expected) or (expected is int and isinstance(values[name], bool)):
            raise ClusterModelError(f"{path}: field {name!r} is {values[name]!r}, expected {expected.__name__}")
    try:
        InstructionRule(values["instruction_turns"], values["instruction_rule_version"])
    except UserError as error:
        raise ClusterModelError(f"{path}: {error}") from error
