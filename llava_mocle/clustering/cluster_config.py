"""What a cluster model says about itself: the fields of its config.json, and the entries of its examples.jsonl."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.clustering.instruction import RULE_VERSION, TURNS
from llava_mocle.errors import ClusterModelError

KIND = "llava_mocle_cluster_model"
FORMAT_VERSION = 1


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

    `encoder` is the name it was fitted with; `encoder_weight_hash` is what counts. `fit` holds statistics: request
    (a hash of the data and settings), num_instructions, num_distinct, inertia, iterations, versions.
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
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ClusterModelError(
                f"{path}: no such file; expected a cluster model folder, as `llava-mocle cluster` writes it"
            ) from error
        except (ValueError, OSError) as error:
            raise ClusterModelError(
                f"{path}: not readable as JSON ({error}); run `llava-mocle cluster` again"
            ) from error
        if not isinstance(values, dict) or values.get("kind") != KIND:
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
    if values["instruction_rule_version"] != RULE_VERSION:
        raise ClusterModelError(
            f"{path}: instruction_rule_version is {values['instruction_rule_version']}, this release knows version "
            f"{RULE_VERSION}: use the release that wrote it, or run `llava-mocle cluster` again"
        )
    if values["instruction_turns"] not in TURNS:
        raise ClusterModelError(
            f"{path}: instruction_turns is {values['instruction_turns']!r}, expected one of {', '.join(TURNS)}"
        )
