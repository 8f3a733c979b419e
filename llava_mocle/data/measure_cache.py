"""Measured lengths, kept on disk: rows are tokenized for their lengths once, not at every start."""

import hashlib
import io
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

from llava_mocle.data.conversation import Template
from llava_mocle.data.row_table import RowTable
from llava_mocle.io.cache import cache_root
from llava_mocle.io.files import written_aside

# Raise this when a change of rendering, tokenizing or measuring gives other lengths than before.
_VERSION = 2
# Lengths that were measured in fewer seconds are not kept.
WORTH_KEEPING = 1.0


def settings_key(template: Template, tokenizer: Any, *limits: int | str | None) -> str | None:
    """A key of everything that decides a row's length besides the row itself; None if that is not known.

    Args:
        limits: what else decides it: the longest sample, how an image becomes tokens.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    style = template.identity()
    if core is None or style is None:
        return None
    special = [repr(sorted(tokenizer.special_tokens_map.items())), tokenizer("")["input_ids"]]
    versions = [_VERSION, tokenizers.__version__, transformers.__version__]
    digest = hashlib.sha256(json.dumps([*versions, style, special, *limits]).encode())
    digest.update(core.to_str().encode())
    return digest.hexdigest()[:32]


def remembered(rows: Sequence[Any], key: str | None, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """The lengths of these rows, int64 (N,): read from disk, or else measured and kept there.

    Only the lengths of a `RowTable` are kept, and only if measuring took at least `WORTH_KEEPING` seconds.

    Args:
        key: the `settings_key`; None keeps nothing.
    """
    if key is None or not isinstance(rows, RowTable):
        return measure()
    file = cache_root() / "rows" / f"{rows.digest}.{key}.npy"
    kept = _read(file, len(rows))
    if kept is not None:
        return kept
    started = time.perf_counter()
    lengths = measure()
    if time.perf_counter() - started >= WORTH_KEEPING:
        _write(file, lengths)
    return lengths


def _read(file: Path, count: int) -> np.ndarray | None:
    try:
        lengths = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        if lengths.shape != (count,) or lengths.dtype != np.int64:
            raise ValueError(f"{lengths.dtype} {lengths.shape}, expected int64 ({count},)")
        return lengths
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        warnings.warn(f"{file}: damaged lengths of rows, measured again ({error})", stacklevel=2)
        return None


def _write(file: Path, lengths: np.ndarray) -> None:
    try:
        with written_aside(file) as aside, aside.open("wb") as stream:
            np.save(stream, lengths, allow_pickle=False)
    except OSError as error:
        warnings.warn(f"{file}: lengths of rows are not kept ({error})", stacklevel=2)
