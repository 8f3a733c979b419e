"""From instructions to clusters: which text routes a sample, how it is embedded, and which cluster it belongs to."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "InstructionRule": "instruction",
    "instruction_from_prompt": "instruction",
    "instruction_hash": "instruction",
    "instruction_text": "instruction",
    "DEFAULT_ENCODER": "encoder_files",
    "SentenceEncoder": "encoder",
    "ClusterModel": "cluster_model",
    "Example": "cluster_config",
    "assign_rows": "assign",
    "count_by_dataset": "assign",
    "read_assignments": "assign",
    "write_assignments": "assign",
}
__all__ = sorted(_EXPORTS)


# Imported on first use: the command line reads the rule alone, which needs none of the libraries that the others do.
def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
