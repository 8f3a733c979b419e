"""A stand-in for an engine with OpenAI's endpoints: each adapter writes its own name.

It is asked over HTTP like a real one. `idle` names adapters that it has loaded and does not apply.
"""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


class Engine:
    """The engine.

    Attributes:
        asked: the bodies of all requests for an answer that were no probe's.
        status: of the next answers, and of its health.
    """

    def __init__(self, adapters: list[str], idle: tuple[str, ...] = (), key: str | None = None) -> None:
        self.adapters = adapters
        self.idle = idle
        self.key = key
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.app = FastAPI()
        self.app.add_api_route("/v1/models", self.models, methods=["GET"])
        self.app.add_api_route("/lora-adapters", self.loras, methods=["GET"])
        self.app.add_api_route("/health", self.health, methods=["GET"])
        self.app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)

    async def models(self) -> dict[str, Any]:
        return {"data": [{"id": name} for name in ["base", *self.adapters]]}

    async def loras(self) -> list[dict[str, Any]]:
        # In another order than the bundle's: the number counts.
        names = list(reversed(self.adapters))
        return [{"id": n, "path": f"adapters/{name}.gguf", "scale": 0.0} for n, name in enumerate(names)]

    async def health(self) -> Response:
        return Response(status_code=self.status)

    def adapter_of(self, body: dict[str, Any]) -> str:
        """Which adapter a request takes, however it says so."""
        if "lora" in body:
            names = list(reversed(self.adapters))
            chosen = [names[entry["id"]] for entry in body["lora"] if entry["scale"] == 1.0]
            return chosen[0] if chosen else "base"
        return body.get("lora_path", body["model"])

    async def chat(self, request: Request) -> JSONResponse | StreamingResponse:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"message": "no"}, status_code=401)
        body = await request.json()
        adapter = self.adapter_of(body)
        if body.get("logprobs") and body["max_tokens"] == 4:
            shift = 0.0 if adapter in ("base", *self.idle) else 0.01 * (1 + self.adapters.index(adapter))
            top = [{"token": "a", "logprob": -0.5 - shift}, {"token": "b", "logprob": -1.5 + shift}]
            tokens = [{"token": "a", "logprob": top[0]["logprob"], "top_logprobs": top}]
            message = {"content": "a"}
            choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": tokens}}
            return JSONResponse({"choices": [choice]})
        self.asked.append(body)
        if self.status != 200:
            return JSONResponse({"error": {"message": "not today"}}, status_code=self.status)
        words = [" ", adapter, " says", " été", "\n"]
        usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
        if not body.get("stream"):
            choices = [
                {"index": n, "message": {"content": "".join(words)}, "finish_reason": "stop"} for n in range(body["n"])
            ]
            return JSONResponse({"choices": choices, "usage": usage})

        async def events():
            for word in words:
                yield _event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            yield ": a comment\n\n"
            yield _event([{"index": 0, "delta": {}, "finish_reason": "length"}])
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


def _event(choices: list[dict[str, Any]]) -> str:
    return f"data: {json.dumps({'choices': choices})}\n\n"
