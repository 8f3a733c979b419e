"""Making a file of rows with a format: rows are checked, counted, and compared with the test split."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from llava_mocle.data.conversation import IMAGE_TOKEN, row_images, written_turns
from llava_mocle.data.formats.format import IN_TEST, Format, LeftOut, MakeOptions, Row, named, plain
from llava_mocle.data.row_files import reads_as_lines
from llava_mocle.data.row_problems import first_problem
from llava_mocle.errors import DataError
from llava_mocle.io.files import written_aside
from llava_mocle.io.progress import progress


@dataclass
class MadeRows:
    """What was made.

    Attributes:
        rows: rows written; images: distinct images that they name.
        official: how many rows the training split has in the official files: those left out included, and variants of
            one sample counted once.
        left_out: how many records of each reason.
    """

    rows: int = 0
    images: int = 0
    official: int = 0
    left_out: Counter[LeftOut] = field(default_factory=Counter)


def make_rows(form: Format, source: Path, images: Path, output: Path, options: MakeOptions) -> MadeRows:
    """Write a format's rows to `output`, as JSONL or as one JSON list, by its ending. It appears whole or not at all.

    Raises:
        DataError: files are missing in `source`, or damaged; two rows have one id; no row is left.
    """
    form.form(source)
    counts = MadeRows()
    with written_aside(output) as aside:
        with aside.open("w", encoding="utf-8") as stream:
            _write(_counted(form, source, images, options, counts), stream, lines=reads_as_lines(output))
        if not counts.rows:
            reasons = "; ".join(f"{n:,}: {what.reason}" for what, n in counts.left_out.most_common())
            raise DataError(f"{source}: no row of {form.name} can be made of it ({reasons or 'no records'}).")
    return counts


def _write(rows: Iterator[Row], stream: TextIO, lines: bool) -> None:
    # Half a surrogate pair cannot be written; `first_problem` refuses such texts, and other keys are escaped.
    texts = (json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() for row in rows)
    if lines:
        stream.writelines(f"{text}\n" for text in texts)
        return
    first = next(texts, None)
    stream.write("[" if first is None else f"[\n{first}")
    stream.writelines(f",\n{text}" for text in texts)
    stream.write("\n]\n")


def _counted(form: Format, source: Path, images: Path, options: MakeOptions, counts: MadeRows) -> Iterator[Row]:
    """The rows that can be trained on, while everything is counted."""
    in_test = _TestSplit(form, source, images)
    ids: set[object] = set()
    paths: set[str] = set()
    variants = options.variants if form.uses_variants else 1
    expected = max(form.rows.counts, default=0) * variants
    rendered = records = 0  # rows made of a sample's variants; records of which the format made none
    with progress(expected, f"rows of {form.name}", "row") as bar:
        for made in form.make(source, images, options):
            bar.update()
            if isinstance(made, LeftOut):
                records += made.official
                counts.left_out[made] += 1
                continue
            rendered += 1
            if (reason := _why_left_out(made, counts.rows, in_test)) is not None:
                counts.left_out[reason] += 1
                continue
            if made.get("id") in ids:
                raise DataError(f"{source}: two rows of {form.name} have the id {made.get('id')!r}, expected one.")
            ids.add(made.get("id"))
            paths.update(row_images(made))
            counts.rows, counts.images = counts.rows + 1, len(paths)
            yield named(made, form)
    counts.official = rendered // variants + records


def _why_left_out(row: Row, index: int, in_test: "_TestSplit") -> LeftOut | None:
    problem = first_problem(row, index)
    if problem is not None:
        return LeftOut(problem.kind)
    return IN_TEST if in_test.asks(row) else None


class _TestSplit:
    """What the test split asks, to be found again by the bytes of the image and the text of the question."""

    def __init__(self, form: Format, source: Path, images: Path) -> None:
        self._images = images
        self._by_question: dict[str, set[bytes]] = {}
        for asked in form.asked_in_test(source):
            self._by_question.setdefault(asked.question, set()).add(asked.image)

    def asks(self, row: Row) -> bool:
        """Whether it asks a question of this row about an image of this row."""
        if not self._by_question:
            return False
        texts = [row["question"]] if isinstance(row.get("question"), str) else []
        texts = texts or [turn.text.replace(IMAGE_TOKEN, "") for turn in written_turns(row)[::2]]
        shown = [self._by_question[text] for text in map(plain, texts) if text in self._by_question]
        return bool(shown) and any(self._digest(image) in digests for image in row_images(row) for digests in shown)

    def _digest(self, image: str) -> bytes:
        with (self._images / image).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
