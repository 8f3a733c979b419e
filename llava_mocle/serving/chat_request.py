"""OpenAI's request: its fields and their types, and the `Question` that it asks.

Fields that would change the answer and are not known here are refused, and not passed over.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, Turn
from llava_mocle.io.text import one_line
from llava_mocle.serving.pictures import Picture, picture_of
from llava_mocle.serving.question import Decoding, Limits, Question
from llava_mocle.serving.refusal import Refusal

MODEL = "mocle"
_CLUSTER = f"{MODEL}/cluster_"
# Fields of OpenAI's that say who asks, not what.
_NO_MATTER = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# What an unknown field may hold, as it then asks for nothing.
_NOTHING: tuple[Any, ...] = (None, 0, False, "", [], {}, "none", "auto", {"type": "text"})
_SYSTEM = ("system", "developer")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    url: str


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
_Parts = Annotated[list[_Part], Field(max_length=100)]
# Which of the two it is meant to be, so that one error tells what is wrong with it.
_Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[_Parts, Tag("parts")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "parts"),
]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: _Content

    @property
    def text(self) -> str:
        """Its texts, one a line."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def urls(self) -> list[str]:
        """Of its images."""
        if isinstance(self.content, str):
            return []
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class StreamOptions(_Strict):
    include_usage: bool = False


_StopText = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`. `route_text`, `cluster_id` and `dataset` are not OpenAI's."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Annotated[str, Field(max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=500)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = 1
    stop: _StopText | Annotated[list[_StopText], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    route_text: str | None = None
    cluster_id: int | None = None
    dataset: str | int | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse(body: bytes) -> ChatRequest:
    """The request of a body.

    Raises:
        Refusal: it is not JSON, or a field is not of its type, out of range, or of no effect here.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "parts")
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise Refusal(400, one_line(message), code="invalid_request", param=place or None) from error
    for name, value in (request.model_extra or {}).items():
        if name not in _NO_MATTER and value not in _NOTHING:
            raise Refusal(
                400,
                f"{one_line(name, 60)}: this server does not know this field; leave it out",
                code="unknown_field",
                param=one_line(name, 60),
            )
    return request


def forced_cluster(model: str, known: Sequence[int]) -> int | None:
    """The cluster that a model's name forces; None for the model that routes by itself.

    Raises:
        Refusal: 404, there is no such model.
    """
    if model == MODEL:
        return None
    number = model.removeprefix(_CLUSTER)
    if model.startswith(_CLUSTER) and number in map(str, known):
        return int(number)
    raise Refusal(
        404,
        f"there is no model {one_line(model, 60)!r}; GET /v1/models lists them: {MODEL} routes by itself",
        code="model_not_found",
        param="model",
    )


def model_names(clusters: Sequence[int]) -> list[str]:
    """The names of the models: the one that routes, and one for each cluster."""
    return [MODEL, *(f"{_CLUSTER}{cluster}" for cluster in clusters)]


def question_of(request: ChatRequest, limits: Limits, clusters: Sequence[int]) -> Question:
    """What a request asks.

    Args:
        clusters: those that a request may choose.

    Raises:
        Refusal: it asks for more than `limits`, its turns have an order that no template knows, or there is no such
            model or cluster.
    """
    cluster = forced_cluster(request.model, clusters)
    if request.cluster_id is not None:
        if request.cluster_id not in clusters:
            known = (
                f"expected one of {', '.join(map(str, clusters))}" if clusters else "this model is not routed by one"
            )
            raise _wrong("cluster_id", f"there is no cluster {request.cluster_id}; {known}")
        if cluster not in (None, request.cluster_id):
            raise _wrong("cluster_id", f"is {request.cluster_id}, and the model {request.model} is another cluster's")
        cluster = request.cluster_id
    _check_texts(request, limits)
    system, turns, pictures = _conversation(request.messages, limits)
    return Question(
        turns=turns,
        decoding=_decoding(request, limits),
        system=system,
        pictures=pictures,
        cluster_id=cluster,
        route_text=request.route_text,
        dataset=request.dataset,
        stream=bool(request.stream),
    )


def _check_texts(request: ChatRequest, limits: Limits) -> None:
    texts = [message.text for message in request.messages] + [request.route_text or ""]
    total = sum(map(len, texts))
    if total > limits.text:
        raise Refusal(
            413,
            f"messages: {total:,} characters, and this server takes {limits.text:,}",
            code="text_too_long",
            param="messages",
        )
    if any(IMAGE_TOKEN in text for text in texts):
        raise _wrong("messages", f"a text holds {IMAGE_TOKEN}; send images as parts of the type image_url")


def _conversation(
    messages: Sequence[Message], limits: Limits
) -> tuple[str | None, tuple[Turn, ...], tuple[Picture, ...]]:
    """The system text, the turns with their `<image>` marks, and the pictures."""
    front = 0
    while front < len(messages) and messages[front].role in _SYSTEM:
        front += 1
    system = "\n".join(message.text for message in messages[:front]) if front else None
    spoken = messages[front:]
    expected = [("user", "assistant")[index % 2] for index in range(len(spoken))]
    if not spoken or [message.role for message in spoken] != expected or spoken[-1].role != "user":
        raise _wrong(
            "messages", "expected user and assistant in turn, system texts in front, and the user's at the end"
        )
    count = sum(len(message.urls) for message in messages)
    if count > limits.images:
        raise Refusal(
            400, f"messages: {count} images, and this server takes {limits.images}", code="too_many_images",
            param="messages",
        )  # fmt: skip
    turns, pictures = [], []
    for index, message in enumerate(messages):
        if message.urls and message.role != "user":
            raise _wrong(f"messages.{index}", "only the user's messages show images")
        pictures += [picture_of(url, limits, f"messages.{index}") for url in message.urls]
        if index >= front:
            role = HUMAN if message.role == "user" else ASSISTANT
            turns.append(Turn(role, f"{IMAGE_TOKEN}\n" * len(message.urls) + message.text))
    return system, tuple(turns), tuple(pictures)


def _decoding(request: ChatRequest, limits: Limits) -> Decoding:
    asked = request.max_completion_tokens or request.max_tokens
    if asked is not None and asked > limits.tokens:
        raise _wrong("max_tokens", f"is {asked:,}, and this server writes at most {limits.tokens:,} an answer")
    if (request.n or 1) > limits.choices:
        raise _wrong("n", f"is {request.n}, and this server gives at most {limits.choices} answers to a request")
    if request.top_logprobs is not None and not request.logprobs:
        raise _wrong("top_logprobs", "needs logprobs to be true")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Decoding(
        max_tokens=asked or min(limits.default_tokens, limits.tokens),
        n=request.n or 1,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=tuple(stop),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _wrong(param: str, message: str) -> Refusal:
    return Refusal(400, f"{param}: {message}", code="invalid_request", param=param)
