"""How long every row will be, and which rows `max_length` would spoil; only rows in doubt are rendered."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from llava_mocle.data.conversation import IMAGE_TOKEN, Template, row_turns
from llava_mocle.data.layout import Layout, find_layout
from llava_mocle.data.row_sizes import ESCAPED, LATE_IMAGE, PADDED, RowSizes
from llava_mocle.data.row_table import RowTable
from llava_mocle.data.templates import PlainTemplate
from llava_mocle.data.tokenize import RowTooLong

logger = logging.getLogger(__name__)

DROPPED = -1
# A token is rarely longer than this many bytes on average; only the order of the estimates matters.
_BYTES_A_TOKEN = 4
# Start-of-text token, the "▁" of the first piece, the first supervised token.
_SPARE = 4
# Longer conversations are rare, and rendering probes of them is slow.
_LONGEST_LAYOUT = 64
# Rows that are rendered to see whether sizes were foretold rightly.
_SAMPLE = 64
_PATIENCE_S = 2.0


def measure_row(
    row: Mapping[str, Any],
    template: Template,
    tokenize: Callable[[Mapping[str, Any]], Any],
    tokens_an_image: int,
    max_length: int | None,
) -> int:
    """A row's estimated tokens, or DROPPED if `max_length` would spoil it.

    Args:
        tokenize: raises RowTooLong for such a row.
    """
    rendered = template.render(row_turns(row))
    tags = rendered.text.count(IMAGE_TOKEN)
    images = tags * tokens_an_image
    if max_length is not None:
        # No token is shorter than a byte, so most rows need no tokenizing here: all that must not be cut is
        # sure to fit. What each piece may start with by itself is paid for by the tags' own bytes.
        needed = max(rendered.text.rfind(IMAGE_TOKEN) + len(IMAGE_TOKEN) if tags else 0, rendered.assistant_spans[0][0])
        if len(rendered.text[:needed].encode()) + images + _SPARE >= max_length:
            try:
                tokenize(row)
            except RowTooLong:
                return DROPPED
    return images + len(rendered.text.encode()) // _BYTES_A_TOKEN


def measure_rows(
    rows: Sequence[Mapping[str, Any]],
    template: Template,
    exact: Callable[[int], int],
    tokens_an_image: int,
    max_length: int | None,
) -> np.ndarray:
    """`measure_row` of every row, int64 (N,).

    Rows of a `RowTable` whose sizes already tell that they fit are not read.

    Args:
        exact: index of a row -> its `measure_row`, which may raise.
    """
    if isinstance(rows, RowTable):
        lengths, doubtful = _foretell(rows, template, tokens_an_image, max_length)
        if not _holds(lengths, doubtful, exact):
            logger.info("the template's lengths can't be foretold: every row of %s is rendered", rows.source)
            doubtful[:] = True
    else:
        lengths, doubtful = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows), dtype=bool)
    for index in tqdm(np.flatnonzero(doubtful), desc="measuring rows", delay=_PATIENCE_S, mininterval=1, leave=False):
        lengths[index] = exact(int(index))
    return lengths


def _holds(lengths: np.ndarray, doubtful: np.ndarray, exact: Callable[[int], int]) -> bool:
    """Whether a sample of the foretold lengths is right."""
    foretold = np.flatnonzero(~doubtful)
    sample = foretold[:: max(1, len(foretold) // _SAMPLE)]
    return all(exact(int(index)) == lengths[index] for index in sample)


def _foretell(
    rows: RowTable, template: Template, tokens_an_image: int, max_length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """(lengths int64 (N,), which of them are not sure, bool (N,)) from the rows' sizes."""
    sizes = rows.sizes()
    if isinstance(template, PlainTemplate):
        head, total, doubtful = _plain_bytes(template, sizes)
    else:
        head, total, doubtful = _bytes(rows, template, sizes)
    images = sizes.images.astype(np.int64) * tokens_an_image
    if max_length is not None:
        # A tag behind the first answer may stand anywhere.
        needed = np.where(sizes.has(LATE_IMAGE), total, head)
        doubtful |= needed + images + _SPARE >= max_length
    return images + total // _BYTES_A_TOKEN, doubtful


def _plain_bytes(template: PlainTemplate, sizes: RowSizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bytes in front of the answer, bytes in all, which rows this can't tell of): tags, answer, end."""
    head = sizes.images.astype(np.int64) * len(IMAGE_TOKEN)
    total = head + sizes.text_bytes - sizes.head_bytes + len(template.end.encode())
    return head, total, (sizes.turns != 2) | (sizes.images == 0) | sizes.has(LATE_IMAGE)


def _bytes(rows: RowTable, template: Template, sizes: RowSizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    head, total = sizes.head_bytes.astype(np.int64), sizes.text_bytes.astype(np.int64)
    tested = template.watched_texts()
    doubtful = np.full(len(rows), tested is None)
    if tested is None:
        return head, total, doubtful
    if tested:
        doubtful |= sizes.has(ESCAPED)
    for text in tested:
        doubtful |= rows.mentions(text)
    for turns in np.unique(sizes.turns).tolist():
        layout: Layout | None = find_layout(template, turns) if turns <= _LONGEST_LAYOUT else None
        those = sizes.turns == turns
        if layout is None:
            doubtful |= those
            continue
        head[those] += layout.head
        total[those] += layout.total
        if layout.strips:
            doubtful |= those & sizes.has(PADDED)
    return head, total, doubtful
