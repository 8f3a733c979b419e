"""What goes into a `Predictor` and what comes out: requests, predictions, rankings."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from llava_mocle.data.conversation import HUMAN, Turn
from llava_mocle.errors import DataError
from llava_mocle.io.text import not_unicode, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput: TypeAlias = "str | os.PathLike[str] | Image"


def check_text(name: str, text: object) -> None:
    """Raise DataError unless `text` is one that a tokenizer can take; `name` is what the message calls it."""
    if not isinstance(text, str):
        raise DataError(f"{name} is {one_line(repr(text))}, expected a text")
    if (wrong := not_unicode(text)) is not None:
        raise DataError(f"{name} {text[:60]!r} holds {wrong}; write the character in full")


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        prompt: the human turn. `<image>` marks where an image goes; without marks, all images go in front.
        images: None, one image, or several: paths or PIL images; those of all turns, in their order.
        cluster_id: a cluster to use instead of the one that the text falls into.
        route_text: a text to route by, instead of the prompt.
        dataset: name or index of the dataset; only models routed by dataset use it, and they need it.
        history: the turns before the prompt, human and assistant in turn.
        system: a system prompt in place of the template's own; None leaves that.

    Raises:
        DataError: one of these texts is no text, or UTF-8 cannot hold it.
    """

    prompt: str
    images: Any = None
    cluster_id: int | None = None
    route_text: str | None = None
    dataset: str | int | None = None
    history: tuple[Turn, ...] = ()
    system: str | None = None

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt)
        for name, text in (("route_text", self.route_text), ("system", self.system)):
            if text is not None:
                check_text(name, text)
        for turn in self.history:
            check_text("a turn of history", turn.text)

    @property
    def turns(self) -> list[Turn]:
        """The whole conversation, which the prompt ends."""
        return [*self.history, Turn(HUMAN, self.prompt)]

    @property
    def routing_texts(self) -> list[str]:
        """What the instruction rule takes: `route_text` alone, or what the human wrote, one text a turn."""
        if self.route_text is not None:
            return [self.route_text]
        return [turn.text for turn in self.turns if turn.role == HUMAN]

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
        cluster_id: the cluster that the answer was routed by; None for a model without a cluster model.
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
