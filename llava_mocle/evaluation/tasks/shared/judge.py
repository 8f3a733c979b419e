"""A language model that grades answers: any server with OpenAI's chat completions."""

import hashlib
import json
import logging
import os
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx2

from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.evaluation.task import Answers, Item, Scores, Task
from llava_mocle.io.files import append_line

logger = logging.getLogger(__name__)

KEY_VARIABLE = "LLAVA_MOCLE_JUDGE_KEY"
TRANSIENT = (408, 429, 500, 502, 503, 504)
_MAY_HOLD_SECRETS = set("@?#")  # marks of a user, a query or a fragment in an address


@dataclass
class Judge:
    """Where the judge is.

    Proxies are taken from HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Redirects are not followed,
    because the key would go along.

    Attributes:
        url: the server's base, up to and with its version: http://localhost:8000/v1
        model: the model's name there.
        log: JSONL file of the replies so far; what stands in it is not asked again. Several processes may write to it
            at the same time. None: replies are kept in memory only.
        api_key: sent as a bearer token; by default what the environment variable LLAVA_MOCLE_JUDGE_KEY holds.
        timeout: seconds to wait for the connection, and for each part of a reply.
        attempts: how often a busy or failing server is asked.
        pause: seconds before the second attempt; doubled before each later one.
        max_tokens: how long its replies may be, instead of the benchmark's own number: models that reason before they
            reply need more. None: the benchmark's.
        runs: how often each answer is graded, in benchmarks that average several runs.

    Raises:
        ConfigError: the url is no http(s) address or holds a user or a query; no model is named; or the key holds
            characters that no header can hold.
        DataError: a line of the log is damaged.
    """

    url: str
    model: str
    log: Path | None = None
    api_key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, ""), repr=False)
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 2.0
    max_tokens: int | None = None
    runs: int = 1
    _replies: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.url) or not self.model:
            shown = "(not shown: it has a user or a query)" if _MAY_HOLD_SECRETS & set(self.url) else repr(self.url)
            raise ConfigError(
                f"judge url {shown}, model {self.model!r}: expected an http(s) address without user or query, such as "
                f"http://localhost:8000/v1, and the name of a model there. A key goes into {KEY_VARIABLE}."
            )
        self.api_key = self.api_key.strip()  # the line end of a file that it was read from
        if not self.api_key.isascii() or not self.api_key.isprintable():
            raise ConfigError(f"judge key ({KEY_VARIABLE}): holds a line end or a letter outside ASCII; set it again.")
        if self.log is not None and self.log.is_file():
            self._replies = _logged_replies(self.log)

    def ask(self, prompt: str, max_tokens: int = 1024, temperature: float = 0.0, system: str = "", run: int = 0) -> str:
        """The judge's reply to one prompt; the same prompt is asked once a run.

        Args:
            system: the message that goes before the prompt, if any.
            run: from 0 to `runs` - 1.

        Raises:
            UserError: no answer after all attempts, a refusal, or a reply of another form.
        """
        before = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.model,
            "messages": [*before, {"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens or max_tokens,
            "temperature": temperature,
        }
        asked = body | {"run": run} if run else body
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if key not in self._replies:
            self._replies[key] = self._post(body)
            if self.log is not None:
                record = {"key": key, "reply": self._replies[key], **asked}
                append_line(self.log, json.dumps(record, ensure_ascii=False))
        return self._replies[key]

    def _post(self, body: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = self.url.rstrip("/") + "/chat/completions"
        trouble = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                reply = httpx2.post(address, content=json.dumps(body).encode(), headers=headers, timeout=self.timeout)
            except httpx2.RequestError as error:  # no connection, a time-out, a reply that was cut short
                trouble = str(error) or type(error).__name__
                continue
            if not reply.is_success:
                trouble = f"HTTP {reply.status_code}: {reply.text[:200]}"
                if reply.status_code not in TRANSIENT:
                    break
                continue
            content = _content(reply.content, address)
            if content is not None:
                return content
            spent = f"max_tokens={body['max_tokens']}"
            trouble = f"a reply without text (were {spent} spent on reasoning? --judge-max-tokens allows more)"
        if self.api_key:  # some servers repeat it
            trouble = trouble.replace(self.api_key, "(the key)")
        raise UserError(f"judge {self.model} at {address}: {trouble}. Answers and earlier replies are kept; run again.")


class JudgedTask(Task):
    """A benchmark that a judge scores. Without one it goes as far as its submission file.

    Attributes:
        averages_runs: whether the judge's `runs` are averaged; otherwise there is one.
        judge: set before `score`.
        reviewer: the official program that grades the submission file; "": there is none.
    """

    averages_runs: ClassVar[bool] = False
    judge: Judge | None = None
    reviewer: ClassVar[str] = ""

    def submission(self, items: Sequence[Item], answers: Answers, folder: Path) -> list[Path]:
        files = super().submission(items, answers, folder)
        if self.judge is None and self.reviewer:
            logger.warning(
                "%s: no judge (--judge-url), so nothing is scored; %s is for %s.", self.name, files[0], self.reviewer
            )
        return files

    def score(self, items: Sequence[Item], answers: Answers) -> Scores:
        """Without a judge nothing is scored."""
        return super().score(items, answers) if self.judge else super().score([], [])

    @abstractmethod
    def official_prompt(self, items: Sequence[Item]) -> bool:
        """Whether the judge is asked in the official words, which lie beside the data, and not in ours."""

    def judged_by(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """The judge's `model` and `official_prompt`; `max_tokens` and `runs` where they are not the usual ones."""
        if self.judge is None:
            return None
        asked: dict[str, Any] = {"model": self.judge.model, "official_prompt": self.official_prompt(items)}
        if self.judge.max_tokens is not None:
            asked["max_tokens"] = self.judge.max_tokens
        if self.averages_runs and self.judge.runs > 1:
            asked["runs"] = self.judge.runs
        return asked


def _is_address(url: str) -> bool:
    """Whether it is an http(s) address with a host, and without a user, a query or anything that must be quoted."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port, or a bracket of IPv6
        return False
    return bool(known) and url.isascii() and url.isprintable() and not (_MAY_HOLD_SECRETS | {" "}) & set(url)


def _logged_replies(log: Path) -> dict[str, str]:
    """The replies of a log. A last line without its end is left out: another process may be writing it."""
    whole = log.read_bytes().rpartition(b"\n")[0]
    replies = {}
    for number, line in enumerate(whole.split(b"\n"), start=1):
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
    return replies


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
