"""From (image, text) to (cluster, answer)."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Predictor": "predictor",
    "Request": "request",
    "Prediction": "request",
    "Ranking": "request",
    "Explanation": "explanation",
    "RoutingSummary": "explanation",
    "summarize_routing": "explanation",
}
__all__ = sorted(_EXPORTS)


# Imported on first use: reading answers or drawing gates needs neither torch nor transformers.
def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
