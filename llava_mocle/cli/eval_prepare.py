"""`llava-mocle eval prepare`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_mocle.evaluation.task import Source, Task


def prepare(names: str | None, data_root: str) -> int:
    """Print which files of the benchmarks are there. Those of named benchmarks are also read, without unpacking images.

    Args:
        names: benchmarks separated by commas, or all; None: look for the files of every benchmark, and read none.

    Returns:
        0: every needed file is there, and those that were read hold as many questions as published, where that number
        is known. 1: otherwise.
    """
    from llava_mocle.evaluation.registry import get_tasks
    from llava_mocle.io.console import print_table, table_console

    root, tasks = Path(data_root), get_tasks(names or "all")
    missing = {task: task.missing(root) for task in tasks}
    print_table(table_console(), _table(root, missing))
    whole = [task for task in tasks if not any(source.needed for source in missing[task])]
    right = len(whole) == len(tasks)
    if names is None:
        print("The files were looked for, but not read. To read them too: llava-mocle eval prepare TASKS")
        return 0 if right else 1
    for task in whole:
        as_published, found = _reading(task, root)
        right &= as_published
        print(f"{task.name}: {found}")
    return 0 if right else 1


def _table(root: Path, missing: "Mapping[Task, list[Source]]") -> Any:
    from rich.table import Table

    table = Table(title=f"benchmarks in {root}", title_justify="left")
    for column in ("task", "file", "what", "from", ""):
        table.add_column(column, no_wrap=column in ("task", "file"))
    for task, lacking in missing.items():
        for position, source in enumerate(task.sources):
            state = "there" if source not in lacking else "MISSING" if source.needed else "missing, optional"
            table.add_row(task.name if position == 0 else "", source.path, source.what, source.origin, state)
    return table


def _reading(task: "Task", root: Path) -> tuple[bool, str]:
    """Whether a task's files hold as many questions as published, where that is known; and the same in words."""
    from llava_mocle.errors import DataError

    try:
        n = task.count(root)
    except DataError as error:
        return False, str(error)
    published = task.published_n(n)
    if n == published:
        return True, f"{n} questions, as published"
    if published is None:
        return n > 0, f"{n} questions; how many the published files hold is not known here"
    return False, f"{n} questions, the published files hold {published}: cut off, or of another split or version?"
