"""Validate everything a run would read, before it runs: rows, images, ids."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llava_mocle.data.image_limits import ASPECT_RATIOS, LLAVA_EDGE, ImageOverLimit, ImageUnreadable, check_shape
from llava_mocle.data.images import image_path, probe_image
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.row_files import stream_rows
from llava_mocle.data.row_problems import Problem, row_problems
from llava_mocle.errors import DataError
from llava_mocle.io.text import not_unicode

# What is wrong with an image, and whether it keeps rows from being trained on.
Trouble = tuple[ImageUnreadable, bool]
# Images handed to the threads at once. This limits memory, and Ctrl-C waits for these only.
_CHUNK = 1024


@dataclass
class DatasetReport:
    """What a file of rows holds, and what is wrong with it.

    Attributes:
        rows, text_only, turns: counts; images: distinct image files named by its rows.
        problems: what keeps rows from being trained on.
        remarks: what is worth knowing; such rows can be trained on.
    """

    name: str
    path: str
    rows: int = 0
    images: int = 0
    text_only: int = 0
    turns: int = 0
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)

    @property
    def by_kind(self) -> Counter[str]:
        """How many problems of each kind, remarks left out."""
        return Counter(problem.kind for problem in self.problems)

    def add(self, problem: Problem) -> None:
        (self.problems if problem.fatal else self.remarks).append(problem)


def check_datasets(
    datasets: Mixture | Iterable[DatasetSpec],
    *,
    images: bool = True,
    workers: int = 4,
    allow_duplicate_ids: bool = False,
    aspect_ratio: str = "pad",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[DatasetReport]:
    """Check every file of rows, held-out ones included. Problems are reported, not raised; nothing is written.

    Args:
        images: also open every distinct image, decoding it to its end.
        workers: threads that open images.
        allow_duplicate_ids: count a repeated id as a remark (public mixes repeat ids; training does not mind).
        aspect_ratio: how images become square. One that is too thin for the other way is a remark. A picture's shorter
            edge is taken to be resized to LLaVA-1.5's 336 pixels.
        progress: called with (dataset, images opened, images in all).
    """
    specs = datasets.specs if isinstance(datasets, Mixture) else list(datasets)
    reports = []
    seen: dict[str, Trouble | None] = {}
    probe = partial(_trouble, aspect_ratio)
    for spec in specs:
        files = {spec.name: spec.data_path}
        if spec.eval_data_path:
            files[f"{spec.name} (held out)"] = spec.eval_data_path
        for name, path in files.items():
            report = DatasetReport(name, str(path))
            users = _check_rows(report, allow_duplicate_ids)
            if images:
                _check_images(report, users, spec.image_folder, workers, seen, probe, progress)
            report.problems.sort(key=lambda problem: -1 if problem.row is None else problem.row)
            reports.append(report)
    return reports


def _check_rows(report: DatasetReport, allow_duplicate_ids: bool) -> dict[str, list[tuple[int, Any]]]:
    """Fill a report from its file. Returns image -> (row, id) of the rows that name it."""
    users: dict[str, list[tuple[int, Any]]] = {}
    first_with: dict[str, int] = {}
    try:
        for index, (_, row) in enumerate(stream_rows(report.path)):
            report.rows += 1
            for problem in row_problems(row, index):
                report.add(problem)
            if not isinstance(row, Mapping):
                continue
            _check_id(report, row, index, first_with, allow_duplicate_ids)
            turns = row.get("conversations")
            report.turns += len(turns) if isinstance(turns, list) else 0
            image = row.get("image")
            paths = image if isinstance(image, list) else [image]
            names = [path for path in paths if isinstance(path, str) and path and not not_unicode(path)]
            report.text_only += not names
            for name in names:
                users.setdefault(name, []).append((index, row.get("id")))
    except DataError as error:
        report.add(Problem("unreadable file", None, None, "file", str(error), "a JSON list or JSONL", "mend the file"))
        return {}
    report.images = len(users)
    return users


def _check_id(
    report: DatasetReport, row: Mapping[str, Any], index: int, first_with: dict[str, int], allow: bool
) -> None:
    if row.get("id") is None:
        report.add(
            Problem("no id", index, None, "id", "none", "an id", "add one: reports name rows by it", fatal=False)
        )
        return
    # As text, so that an id may have any type. 1 and "1" are the same id to a person who looks for a row.
    first = first_with.setdefault(str(row["id"]), index)
    if first != index:
        remedy = "give each row its own, or pass --allow-duplicate-ids"
        found, expected = f"the id of row {first} again", "an id of its own"
        report.add(Problem("duplicate id", index, row["id"], "id", found, expected, remedy, fatal=not allow))


def _check_images(
    report: DatasetReport,
    users: Mapping[str, list[tuple[int, Any]]],
    folder: str,
    workers: int,
    seen: dict[str, Trouble | None],
    probe: Callable[[str], Trouble | None],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Open every image that no earlier dataset has opened, and report the rows of those that can't be read."""
    paths = {name: image_path(folder, name) for name in users}
    todo = [path for path in dict.fromkeys(paths.values()) if path not in seen]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            for done, (path, trouble) in enumerate(zip(chunk, pool.map(probe, chunk), strict=True), start + 1):
                seen[path] = trouble
                if progress is not None:
                    progress(report.name, done, len(todo))
    for name, path in paths.items():
        if (trouble := seen[path]) is not None:
            error, fatal = trouble
            found, _, remedy = str(error).rpartition("; ")
            expected = "an image file that can be read to its end"
            if isinstance(error, ImageOverLimit):
                expected = "an image that can be read and prepared in bounded memory"
            for index, row_id in users[name]:
                advice = f"{remedy}, or remove the row"
                report.add(Problem(error.kind, index, row_id, "image", found, expected, advice, fatal=fatal))


def _trouble(aspect_ratio: str, path: str) -> Trouble | None:
    """What is wrong with an image: for any use, for this `aspect_ratio`, or only for the other one."""
    try:
        size = probe_image(path)
    except ImageUnreadable as error:
        return error, True
    for way in (aspect_ratio, *ASPECT_RATIOS):
        try:
            check_shape(size, way, LLAVA_EDGE, path)
        except ImageOverLimit as error:
            return error, way == aspect_ratio
    return None
