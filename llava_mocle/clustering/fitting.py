"""What a fit is asked for, and whether a folder holds its result already."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_mocle.clustering.cluster_config import ClusterConfig, fit_request
from llava_mocle.clustering.cluster_files import CONFIG_FILE, is_cluster_model
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.encoder import SentenceEncoder
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import AssetError, ClusterModelError


@dataclass
class FitRequest:
    """Everything that decides the outcome of a fit.

    Attributes:
        weight_of: distinct instruction -> summed weight.
        num_clusters, seed, n_init: of k-means.
        rule: which text of a row is its instruction.
        encoder_name: the encoder, a name or a folder.
        device: torch device of the encoder.
    """

    weight_of: Mapping[str, float]
    num_clusters: int
    seed: int
    n_init: int
    rule: InstructionRule
    encoder_name: str
    device: Any = None

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """Raises AssetError where the encoder is not here."""
        return SentenceEncoder(self.encoder_name, self.device)

    def digest(self, weight_hash: str) -> str:
        """What a fit with an encoder of these weights records as its request."""
        return fit_request(self.weight_of, self.num_clusters, self.seed, self.n_init, self.rule, weight_hash)

    def describe(self) -> str:
        """In words, for a message."""
        mass = sum(self.weight_of.values())
        return (
            f"K = {self.num_clusters}, seed {self.seed}, {self.n_init} restarts, turns {self.rule.turns}, {mass:,.0f} "
            f"instructions ({len(self.weight_of):,} distinct) and encoder {self.encoder_name}"
        )


def fitted_already(folder: Path, request: FitRequest) -> ClusterModel | None:
    """The cluster model in `folder` if it is the one that this request would fit; else None.

    The encoder need not be here, if the folder's clustering was made with an encoder of the name that is asked for.

    Raises:
        AssetError: it is not here, and the folder holds no clustering of this name that fits the request.
    """
    try:
        config = ClusterConfig.read(folder / CONFIG_FILE) if is_cluster_model(folder) else None
    except ClusterModelError:
        config = None
    try:
        encoder = request.encoder
        weight_hash = encoder.weight_hash
    except AssetError:
        if config is None or config.encoder != request.encoder_name:
            raise
        encoder, weight_hash = None, config.encoder_weight_hash
    if config is None or config.fit.get("request") != request.digest(weight_hash):
        return None
    try:
        return ClusterModel.load(folder, encoder, request.device)
    except ClusterModelError:
        return None
