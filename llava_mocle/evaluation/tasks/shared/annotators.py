"""What several people answered or wrote."""

from collections.abc import Mapping
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.official import field


def annotated(record: Mapping[str, Any], key: str, place: str, kind: Any = str) -> tuple[Any, ...]:
    """The entries, each of `kind`, of a record's list of answers or captions.

    Raises:
        DataError: no such list, an empty one, or an entry of another kind.
    """
    entries = field(record, key, place, list)
    if not entries:
        raise DataError(f"{place}: {key!r} is {entries!r}, expected what the annotators said, one entry each.")
    return tuple(field(record, key, place, list[kind]))
