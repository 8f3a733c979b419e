"""What a row takes in a prompt, in bytes of its texts: enough to tell which rows fit without reading them again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_mocle.data.conversation import HUMAN, IMAGE_TOKEN, place_images

# Bits of `RowSizes.flags`.
LATE_IMAGE = 1
PADDED = 2
ESCAPED = 4


@dataclass(frozen=True)
class RowSizes:
    """One number a row in each array, in UTF-8 bytes of the turns as templates get them (`row_turns`).

    Attributes:
        images: `<image>` tags, as many as the row has images; int32 (N,).
        turns: turns that are rendered; int32 (N,).
        text_bytes: all turns together; int64 (N,).
        head_bytes: the first human turn; int64 (N,).
        flags: LATE_IMAGE: a tag behind the first answer's start. PADDED: a turn with white space at an end. ESCAPED:
            the JSON text writes an ASCII character as an escape that it needs not; uint8 (N,).
    """

    images: np.ndarray
    turns: np.ndarray
    text_bytes: np.ndarray
    head_bytes: np.ndarray
    flags: np.ndarray

    def has(self, flag: int) -> np.ndarray:
        """Which rows carry a flag, bool (N,)."""
        return (self.flags & flag) != 0


def sizes_of(row: Mapping[str, Any], text: str) -> tuple[int, int, int, int, int]:
    """(images, turns, text_bytes, head_bytes, flags) of a validated row and its JSON text."""
    turns = row["conversations"]
    first = int(turns[0]["from"] != HUMAN)
    images = total = head = 0
    flags = ESCAPED if "\\/" in text or "\\u00" in text else 0
    for index in range(first, len(turns)):
        value = turns[index]["value"]
        tags = value.count(IMAGE_TOKEN)
        if tags:
            images += tags
            value = place_images(value)
            if index > first:
                flags |= LATE_IMAGE
        total += len(value) if value.isascii() else len(value.encode())
        if index == first:
            head = total
        if value[0].isspace() or value[-1].isspace():
            flags |= PADDED
    return images, len(turns) - first, total, head, flags
