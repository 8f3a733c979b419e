"""Whether an engine applies its adapters. One whose weights have other names than it expects is loaded without a word,
and then changes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from llava_mocle.errors import ConfigError
from llava_mocle.export.bundle import Routing
from llava_mocle.serving.engines import EngineDialect

# An adapter that is applied changes log-probabilities by far more. One that is not changes nothing: the questions come
# one at a time, so the engine does the same arithmetic.
_SAME = 1e-4
_PROBES = 3
_TOKENS = 4
_TOP = 10
_QUESTION = "What is this?"


async def probe(client: httpx2.AsyncClient, dialect: EngineDialect, routing: Routing, adapters: Sequence[str]) -> None:
    """Compare the log-probabilities of each adapter with the base's, on a few questions.

    Raises:
        ConfigError: those of an adapter are the base's on all of them; names it.
        httpx2.HTTPError, KeyError: the engine does not answer as OpenAI's would.
    """
    nearest = [entry.nearest[0] for entry in routing.clusters if entry.nearest and entry.nearest[0].strip()]
    questions = (nearest or [_QUESTION])[:_PROBES]
    base = [await _log_probabilities(client, dialect.fields(None), question) for question in questions]
    idle = []
    for adapter in adapters:
        for question, expected in zip(questions, base, strict=True):
            found = await _log_probabilities(client, dialect.fields(adapter), question)
            if _differ(found, expected):
                break
        else:
            idle.append(adapter)
    if idle:
        raise ConfigError(
            f"the engine gives the base's log-probabilities for {', '.join(idle)}: it has loaded these adapters, and "
            "does not apply them. Start it on this bundle with the command that bundle.json holds; if it still does "
            "not, export the bundle again for this engine."
        )


async def _log_probabilities(
    client: httpx2.AsyncClient, fields: Mapping[str, Any], question: str
) -> list[dict[str, float]]:
    """Of each token of a short greedy answer, the likeliest tokens with their log-probabilities."""
    body = {
        **fields,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": _TOP,
    }
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    tokens = response.json()["choices"][0]["logprobs"]["content"]
    return [{top["token"]: float(top["logprob"]) for top in token["top_logprobs"]} for token in tokens]


def _differ(found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> bool:
    if len(found) != len(expected):
        return True
    for mine, base in zip(found, expected, strict=True):
        common = mine.keys() & base.keys()
        # Two tokens at the end of the list may change places by rounding alone.
        if len(common) < len(base) - 1 or any(abs(mine[token] - base[token]) > _SAME for token in common):
            return True
    return False
