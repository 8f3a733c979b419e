"""`from_pretrained` with its report, and the report turned into an error: half a model is worse than none."""

from pathlib import Path
from typing import Any

from llava_mocle.errors import CheckpointError


def load_reported(model_class: Any, folder: Path | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model and transformers' loading report (missing_keys, unexpected_keys, mismatched_keys)."""
    return model_class.from_pretrained(folder, output_loading_info=True, **options)


def refuse_gaps(folder: Path, report: dict[str, Any], unexpected: bool = False) -> None:
    """`CheckpointError` where a loading report names weights missing, of another shape or (if asked) left over."""
    kinds = ["missing_keys", "mismatched_keys"] + (["unexpected_keys"] if unexpected else [])
    for kind in kinds:
        if report[kind]:
            names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[kind])
            raise CheckpointError(
                f"{folder}: {len(names)} weight(s) are {kind.removesuffix('_keys')}, for example "
                f"{', '.join(names[:3])}; the folder is incomplete, or its config.json is of another model."
            )
