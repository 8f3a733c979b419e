"""Every benchmark by its name: the `Task` subclasses of the files in `tasks/`."""

import difflib
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from inspect import isabstract

from llava_mocle.errors import ConfigError
from llava_mocle.evaluation import tasks
from llava_mocle.evaluation.task import Task


@cache
def all_tasks() -> dict[str, type[Task]]:
    """Name -> class of every benchmark, in the order of the names."""
    found: dict[str, type[Task]] = {}
    for module_info in pkgutil.iter_modules(tasks.__path__):
        module = import_module(f"{tasks.__name__}.{module_info.name}")
        for thing in vars(module).values():
            is_task = isinstance(thing, type) and issubclass(thing, Task) and not isabstract(thing)
            if is_task and thing.__module__ == module.__name__ and "name" in vars(thing):
                assert thing.name not in found, f"two tasks are named {thing.name}"
                found[thing.name] = thing
    return dict(sorted(found.items()))


def get_tasks(names: str | Sequence[str]) -> list[Task]:
    """The benchmarks of a comma-separated list (or of a sequence), in its order; `all` is every one.

    Raises:
        ConfigError: an unknown name (names the nearest), or none at all.
    """
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    wanted = [name for name in wanted if name]
    known = all_tasks()
    if wanted == ["all"]:
        wanted = list(known)
    if not wanted:
        raise ConfigError(f"no task named; known are {', '.join(known)}, and all.")
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown task {name!r}; did you mean {near[0]!r}? Known are {', '.join(known)}, and all."
            )
    return [known[name]() for name in dict.fromkeys(wanted)]
