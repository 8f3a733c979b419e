"""Tokens, keys and passwords: kept out of the files we write and the messages we print."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
_SECRET_NAME = re.compile(r"(?:^|[-_.])(?:token|api[-_]?key|password|passwd|secret)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(\w://)[^/\s@]+@")
_SECRET_IN_QUERY = re.compile(r"([?&][\w.-]*(?:token|key|password|secret)=)[^&#\s]+", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a key or flag of this name holds a secret: `hub_token`, `--api-key`, `comet.password`."""
    return _SECRET_NAME.search(name) is not None


def mask_urls(text: str) -> str:
    """The text with user and password, and tokens in queries, masked in its URLs."""
    return _SECRET_IN_QUERY.sub(rf"\1{MASK}", _USER_IN_URL.sub(rf"\1{MASK}@", text))


def mask_command(words: Sequence[str]) -> list[str]:
    """The words of a command line without secrets: values of secret flags, parts of URLs, entries of JSON objects."""
    masked: list[str] = []
    secret_follows = False
    for word in words:
        flag, equals, _ = word.partition("=")
        secret = flag.startswith("-") and is_secret_name(flag)
        if secret_follows and not word.startswith("--"):
            masked.append(MASK)
        elif secret and equals:
            masked.append(f"{flag}={MASK}")
        else:
            masked.append(without_secrets(word))
        secret_follows = secret and not equals
    return masked


def without_secrets(value: Any) -> Any:
    """A copy of a JSON-like value without its secrets.

    Entries of mappings whose name says that they are secret are left out, at every depth, also in text that is a JSON
    object. URLs are masked as by `mask_urls`.
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(entry) for key, entry in value.items() if not is_secret_name(str(key))}
    if isinstance(value, list | tuple):
        return [without_secrets(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        try:
            parsed = json.loads(value)
        except ValueError:
            return mask_urls(value)
        cleaned = without_secrets(parsed)
        return value if cleaned == parsed else json.dumps(cleaned)
    return mask_urls(value)
