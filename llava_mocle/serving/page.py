"""The page: one file that asks its own server and nobody else."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("page.html")


@cache
def html() -> str:
    """The page."""
    return _FILE.read_text(encoding="utf-8")


@cache
def headers() -> dict[str, str]:
    """What keeps a browser to it: only this script and this style run, and only this server is asked."""
    policy = [
        "default-src 'none'",
        f"script-src {_hash('script')}",
        f"style-src {_hash('style')}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hash(tag: str) -> str:
    """The source expression of the page's one element of this kind."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html(), flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"
