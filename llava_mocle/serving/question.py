"""One request as both backends take it: the conversation, its pictures, and how to decode. Free of HTTP."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_mocle.data.conversation import Turn

if TYPE_CHECKING:
    from llava_mocle.inference import Request
    from llava_mocle.serving.pictures import Picture


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Attributes:
        body: bytes of the whole request.
        images: how many of them.
        image_bytes: of one image, as a file.
        pixels: width times height of one image. Only its header is read before this is known.
        side: pixels of the longer side of one image, as it may be padded to a square.
        text: characters of all texts together.
        choices: answers to one request (`n`).
        tokens: of one answer.
        default_tokens: of an answer where the request does not say.
    """

    body: int = 32 << 20
    images: int = 8
    image_bytes: int = 16 << 20
    pixels: int = 40_000_000
    side: int = 8192
    text: int = 200_000
    choices: int = 8
    tokens: int = 4096
    default_tokens: int = 512


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        max_tokens: of each answer.
        n: how many answers.
        temperature: 0 is greedy.
        top_p: the nucleus that is sampled from.
        seed: of the first answer, the next one has the next seed; None: another one each time.
        stop: texts that end an answer and are not part of it.
        logprobs: how many likeliest tokens are told beside each token; None: no log-probabilities at all.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Question:
    """A conversation that the human's turn ends.

    Attributes:
        turns: each human text has a `<image>` mark for every image shown in it.
        decoding: how to answer.
        system: a system prompt in place of the template's own; None leaves that.
        pictures: in the order of the marks.
        cluster_id: the cluster to use, if the client chose one.
        route_text: a text to route by, in place of what the human wrote.
        dataset: for a model that is routed by dataset.
        stream: whether text is sent as it comes.
    """

    turns: tuple[Turn, ...]
    decoding: Decoding
    system: str | None = None
    pictures: "tuple[Picture, ...]" = ()
    cluster_id: int | None = None
    route_text: str | None = None
    dataset: str | int | None = None
    stream: bool = False

    def request(self, *, with_pictures: bool = True) -> "Request":
        """The same for a `Predictor`; without its pictures it can be routed, not answered."""
        from llava_mocle.inference import Request

        return Request(
            self.turns[-1].text,
            [picture.image() for picture in self.pictures] if with_pictures else None,
            cluster_id=self.cluster_id,
            route_text=self.route_text,
            dataset=self.dataset,
            history=self.turns[:-1],
            system=self.system,
        )
