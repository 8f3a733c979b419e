"""A language model that grades answers: any server with OpenAI's chat completions, asked through urllib."""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.evaluation.task import Item, Scores, Task

KEY_VARIABLE = "LLAVA_MOCLE_JUDGE_KEY"
TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass
class Judge:
    """Where the judge is.

    Attributes:
        url: the server's base, up to and with its version: http://localhost:8000/v1
        model: the model's name there.
        log: JSONL file of the replies so far; what stands in it is not asked again. None: kept in memory alone.
        api_key: sent as a bearer token; by default what the environment variable LLAVA_MOCLE_JUDGE_KEY holds.
        timeout: seconds that one reply may take.
        attempts: how often a busy or failing server is asked.
        pause: seconds before the second attempt; doubled before each later one.

    Raises:
        ConfigError: the url is no http(s) address, or no model is named.
        DataError: a line of the log is damaged.
    """

    url: str
    model: str
    log: Path | None = None
    api_key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, ""), repr=False)
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 2.0
    _replies: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.url) or not self.model:
            raise ConfigError(
                f"judge url {self.url!r}, model {self.model!r}: expected an http(s) address, such as "
                "http://localhost:8000/v1, and the name of a model there."
            )
        if self.log is not None and self.log.is_file():
            self._replies = _logged_replies(self.log)

    def ask(self, prompt: str, max_tokens: int = 1024, temperature: float = 0.0, system: str = "") -> str:
        """The judge's reply to one prompt; the same prompt is asked once.

        Args:
            system: the message that goes before the prompt, if any.

        Raises:
            UserError: no answer after all attempts, a refusal, or a reply of another form.
        """
        before = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.model,
            "messages": [*before, {"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if key not in self._replies:
            self._replies[key] = self._post(body)
            self._record(key, body)
        return self._replies[key]

    def _record(self, key: str, body: dict[str, Any]) -> None:
        if self.log is None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        record = {"key": key, "reply": self._replies[key], **body}
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _post(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        trouble = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    content = _content(response.read(), address)
                if content is not None:
                    return content
                trouble = f"a reply without text (were max_tokens={body['max_tokens']} spent on reasoning?)"
            except urllib.error.HTTPError as error:
                trouble = f"HTTP {error.code}: {_explanation(error)}"
                if error.code not in TRANSIENT:
                    break
            except (OSError, http.client.HTTPException) as error:  # URLError, a time-out, a reply cut short
                trouble = str(error)
        raise UserError(f"judge {self.model} at {address}: {trouble}. Answers and earlier replies are kept; run again.")


class JudgedTask(Task):
    """A benchmark that a judge scores. Without one it goes as far as its submission file.

    Attributes:
        judge: set before `score`.
    """

    judge: Judge | None = None

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`. Without a judge nothing is scored."""
        return super().score(items, answers) if self.judge else super().score([], [])

    @abstractmethod
    def official_prompt(self, items: Sequence[Item]) -> bool:
        """Whether the judge is asked in the official words, which lie beside the data, and not in ours."""

    def judged_by(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """What two runs' grades must share to compare: the judge's `model`, and `official_prompt`; None: no judge."""
        if self.judge is None:
            return None
        return {"model": self.judge.model, "official_prompt": self.official_prompt(items)}


def _is_address(url: str) -> bool:
    """Whether urllib can ask it: a scheme, a host, a port that is a number, no user, nothing that must be quoted."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port, or a bracket of IPv6
        return False
    return bool(known) and "@" not in parts.netloc and url.isascii() and url.isprintable() and " " not in url


def _logged_replies(log: Path) -> dict[str, str]:
    """The replies of a log, whose last line is cut off where it is incomplete: a killed run leaves that behind."""
    whole = log.read_bytes().rpartition(b"\n")[0]
    replies = {}
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record["reply"], str):
                raise TypeError("the reply is no text")
            replies[record["key"]] = record["reply"]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{log}, line {number}: {line[:60]!r} is no reply of the judge, expected a JSON object with 'key' and "
                "'reply'. Remove the line, and it is asked for again."
            ) from error
    os.truncate(log, len(whole) + bool(whole))
    return replies


def _explanation(error: urllib.error.HTTPError) -> str:
    try:
        return error.read()[:200].decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _content(reply: bytes, address: str) -> str | None:
    """The text of a reply; None where it has none, as of a model that was stopped before it came to its answer."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is a {type(content).__name__}")
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"judge at {address}: replied {reply[:200]!r}, expected OpenAI's form of a chat completion. Is the "
            "address the base, up to /v1?"
        ) from error
    return content
