"""What a `Predictor` takes and gives."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput: TypeAlias = "str | os.PathLike[str] | Image"


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        prompt: the human turn; `<image>` marks where images go, and is put in front where there is none.
        images: None, one image, or several: paths or PIL images.
        cluster_id: this cluster instead of the one that the text falls into.
        route_text: the text that routes, instead of the prompt.
        dataset: name or index of the dataset; only models routed by dataset use it, and they need it.
    """

    prompt: str
    images: Any = None
    cluster_id: int | None = None
    route_text: str | None = None
    dataset: str | int | None = None

    @property
    def image_list(self) -> "list[ImageInput]":
        """The images as a list."""
        if self.images is None:
            return []
        return list(self.images) if isinstance(self.images, (list, tuple)) else [self.images]


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Attributes:
        text: the answer, stripped, without the end of turn.
        cluster_id: the cluster that it was routed by; None for a model without a cluster model.
        cluster_distance: Euclidean distance of the routing text's embedding from the cluster's centroid; None where
            there is no cluster or the caller chose it.
        num_tokens: tokens generated, the end of turn not counted.
    """

    text: str
    cluster_id: int | None
    cluster_distance: float | None
    num_tokens: int


@dataclass(frozen=True)
class Ranking:
    """Candidates of one question, scored.

    Attributes:
        scores: log-likelihood of each candidate in nats, summed over its tokens and the end of turn.
        cluster_id, cluster_distance: as in `Prediction`.
    """

    scores: tuple[float, ...]
    cluster_id: int | None
    cluster_distance: float | None

    @property
    def best(self) -> int:
        """Index of the likeliest candidate, the first of equals."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)


@dataclass(frozen=True)
class Explanation:
    """Why a prompt takes the experts it takes; the gates are averaged over the sites, and empty without a gate.

    Attributes:
        route_text: the text that was embedded.
        nearest_instructions: training instructions nearest the cluster's centroid.
        mean_gates: (E,) mean clean gate of each expert.
        expert_share: (E,) share of the sites at which the expert is chosen.
        universal_weight: mean weight of the universal expert; None without one.
    """

    route_text: str
    cluster_id: int
    cluster_distance: float | None
    nearest_instructions: tuple[str, ...]
    mean_gates: tuple[float, ...]
    expert_share: tuple[float, ...]
    universal_weight: float | None
    num_sites: int
