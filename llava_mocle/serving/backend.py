"""What the front asks of whoever answers: a route first, then the events of every answer as they come."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llava_mocle.serving.question import Question


@dataclass(frozen=True)
class ClusterView:
    """What people may know of a cluster.

    Attributes:
        cluster_id: its number.
        nearest: training instructions nearest its centroid.
        experts: site -> the strongest task expert there; empty for a model whose gates look at no cluster.
        gate: its weight, the mean over the sites; None without gates.
        universal_weight: of the universal expert, the mean over the sites; None without one.
        samples: how many training instructions fell into it; 0 where this is not known.
    """

    cluster_id: int
    nearest: tuple[str, ...]
    experts: Mapping[str, int] = field(default_factory=dict)
    gate: float | None = None
    universal_weight: float | None = None
    samples: float = 0.0


@dataclass(frozen=True)
class Route:
    """Where a request goes.

    Attributes:
        cluster_id: the nearest cluster, or the one that the client chose; None for a model without clusters.
        distance: of the instruction from the centroid; None where there is no cluster or the client chose it.
        gate: the mean weight of the strongest task experts; None without gates.
        universal_weight: the mean weight of the universal expert; None without one.
        out_of_distribution: the instruction is so far from every cluster that the universal expert answers alone.
    """

    cluster_id: int | None = None
    distance: float | None = None
    gate: float | None = None
    universal_weight: float | None = None
    out_of_distribution: bool = False

    @property
    def label(self) -> str:
        """In metrics: the cluster's number, "universal" or "none"."""
        if self.out_of_distribution:
            return "universal"
        return "none" if self.cluster_id is None else str(self.cluster_id)

    def as_json(self) -> dict[str, Any]:
        """The object `mocle` of a response, but for `near_tie`."""
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """A question with its route, ready to be answered.

    Attributes:
        payload: what the backend has prepared.
    """

    question: Question
    route: Route
    payload: Any = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        index: which of the `n` answers.
        text: what is new of it.
        logprobs: of its tokens, as OpenAI writes them; empty where they were not asked for.
    """

    index: int
    text: str
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Finished:
    """An answer is over.

    Attributes:
        index: which of the `n` answers.
        reason: "stop" or "length".
        near_tie: whether other requests of its batch may have decided a token of it; None where nobody looked.
    """

    index: int
    reason: str
    near_tie: bool | None = None


@dataclass(frozen=True)
class Usage:
    """All answers are over: what they took, in tokens."""

    prompt_tokens: int
    completion_tokens: int


Event = Piece | Finished | Usage


class Backend(ABC):
    """Whoever answers. `start` is called once in the event loop that everything else is called in.

    Attributes:
        model_id: name and fingerprint of the model.
        clusters: what is known of every cluster; empty for a model that is not routed by cluster.
        far_distance: an instruction farther than this is answered by the universal expert alone; None: none is.
        sees_images: whether it answers about images.
    """

    model_id: str
    clusters: Sequence[ClusterView] = ()
    far_distance: float | None = None
    sees_images: bool = True

    @abstractmethod
    async def start(self) -> None:
        """Begin to take questions."""

    @abstractmethod
    async def close(self) -> None:
        """End; what is being answered is given up."""

    @abstractmethod
    async def route(self, question: Question) -> Job:
        """Where a question goes.

        Raises:
            Refusal, DataError, RoutingError, ConfigError: the client's mistake.
        """

    @abstractmethod
    def generate(self, job: Job) -> AsyncGenerator[Event, None]:
        """The answers, part by part; those of several choices are mixed. `Usage` comes last.

        Closing the iterator gives the answers up.
        """

    @property
    def waiting(self) -> int:
        """How many answers wait for their turn."""
        return 0

    @abstractmethod
    async def alive(self) -> bool:
        """Whether it can answer at all."""

    def view(self, cluster: int | None) -> ClusterView | None:
        """What is known of a cluster."""
        return next((view for view in self.clusters if view.cluster_id == cluster), None)
