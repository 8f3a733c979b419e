"""From (image, text) to (cluster, answer)."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Predictor": "predictor",
    "Request": "request",
    "Prediction": "request",
    "Ranking": "request",
    "Explanation": "request",
    "RoutingSummary": "routing_summary",
    "summarize_routing": "routing_summary",
}
__all__ = sorted(_EXPORTS)


# Lazy, so that reading answers or drawing gates does not cost the import of torch and transformers.
def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
