"""Every benchmark by its name."""

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.evaluation.registry import all_tasks, get_tasks


def test_every_benchmark_says_what_it_is() -> None:
    for name, task in all_tasks().items():
        assert name == task.name
        for word in (task.title, task.split, task.metric):
            assert word
        assert task.sources
        for source in task.sources:
            assert source.what
            assert source.origin
            assert not source.path.startswith("/")


def test_task_names() -> None:
    assert [task.name for task in get_tasks("pope, pope")] == ["pope"]
    with pytest.raises(ConfigError, match="did you mean 'pope'"):
        get_tasks("popes")
    with pytest.raises(ConfigError, match="no task named"):
        get_tasks(" ,")
