"""What several people answered or wrote."""

from typing import Any

from llava_mocle.errors import DataError


def annotated(value: Any, name: str, place: str) -> tuple[Any, ...]:
    """The entries of a record's list of answers or captions.

    Raises:
        DataError: no list, or an empty one.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {name!r} is {value!r:.60}, expected what the annotators said, one entry each.")
    return tuple(value)
