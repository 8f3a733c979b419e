"""MoCLE: Mixture of Cluster-conditional LoRA Experts for LLaVA-style vision-language models."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Resolved on first use, so that `llava-mocle --help` does not pay for importing torch.
_EXPORTS = {
    "MocleConfig": "llava_mocle.adapter",
    "MocleModel": "llava_mocle.adapter",
    "MocleLinear": "llava_mocle.adapter",
    "collapse": "llava_mocle.adapter",
    "ClusterModel": "llava_mocle.clustering",
    "Predictor": "llava_mocle.inference",
}
__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
