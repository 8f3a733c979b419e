"""OpenAI's responses, from the events of a backend: one object, or a stream of chunks."""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from llava_mocle.errors import UserError
from llava_mocle.serving.backend import Event, Finished, Job, Piece, Route, Usage
from llava_mocle.serving.refusal import Refusal, refusal_of

logger = logging.getLogger(__name__)


def head(model: str, kind: str) -> dict[str, Any]:
    """What all chunks of a response, or the response, begin with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def headers_of(route: Route) -> dict[str, str]:
    """The route, for clients that do not read the body."""
    values = {
        "cluster-id": route.cluster_id,
        "distance": route.distance,
        "gate": route.gate,
        "universal-weight": route.universal_weight,
        "out-of-distribution": str(route.out_of_distribution).lower(),
    }
    return {f"x-mocle-{name}": f"{value}" for name, value in values.items() if value is not None}


def usage_json(usage: Usage) -> dict[str, int]:
    """The counts of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


async def completion(model: str, job: Job, events: AsyncIterator[Event]) -> dict[str, Any]:
    """The whole response.

    `near_tie` is true if it is for any of the answers.
    """
    count = job.question.decoding.n
    texts = [""] * count
    logprobs: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    ends: dict[int, Finished] = {}
    usage = Usage(0, 0)
    async for event in events:
        if isinstance(event, Piece):
            texts[event.index] += event.text
            logprobs[event.index] += event.logprobs
        elif isinstance(event, Finished):
            ends[event.index] = event
        else:
            usage = event
    if len(ends) < count:
        raise Refusal(502, "the engine ended before its answers did", code="engine_failed")
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": texts[index], "refusal": None},
            "logprobs": {"content": logprobs[index], "refusal": None} if asks_logprobs(job) else None,
            "finish_reason": ends[index].reason,
        }
        for index in range(count)
    ]
    ties = [end.near_tie for end in ends.values()]
    near_tie = None if None in ties else any(ties)
    return head(model, "chat.completion") | {
        "choices": choices,
        "usage": usage_json(usage),
        "mocle": job.route.as_json() | {"near_tie": near_tie},
    }


async def chunks(
    model: str, job: Job, events: AsyncIterator[Event], include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream. The first has the route; the one that ends an answer has `near_tie` too."""
    first = head(model, "chat.completion.chunk")
    usage = {"usage": None} if include_usage else {}
    route = job.route.as_json()
    for index in range(job.question.decoding.n):
        start = _choice(index, {"role": "assistant", "content": ""})
        yield first | {"choices": [start], "mocle": route | {"near_tie": None}} | usage
    async for event in events:
        if isinstance(event, Piece):
            choice = _choice(event.index, {"content": event.text})
            if asks_logprobs(job):
                choice["logprobs"] = {"content": list(event.logprobs), "refusal": None}
            yield first | {"choices": [choice]} | usage
        elif isinstance(event, Finished):
            end = _choice(event.index, {}, event.reason)
            yield first | {"choices": [end], "mocle": route | {"near_tie": event.near_tie}} | usage
        elif include_usage:
            yield first | {"choices": [], "usage": usage_json(event)}


async def lines(stream: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events of chunks. An error that comes after the first of them is an event too."""
    try:
        async for chunk in stream:
            yield line(chunk)
    except Exception as error:
        if not isinstance(error, Refusal | TimeoutError | UserError):
            logger.error("a stream failed", exc_info=error)
        yield line(refusal_of(error).body)
    yield "data: [DONE]\n\n"


def line(record: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(record, ensure_ascii=False, separators=(',', ':'))}\n\n"


def asks_logprobs(job: Job) -> bool:
    """Whether log-probabilities are part of the response."""
    return job.question.decoding.logprobs is not None


def _choice(index: int, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
