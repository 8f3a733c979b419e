"""Metrics with their intervals, the count of unparsed answers, and what a task says of missing files."""

from typing import ClassVar

import numpy as np
import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.scores.statistics import bootstrap_interval
from llava_mocle.evaluation.task import Item, Task, mean_metric, resampled_metric
from tests.evaluation.toy import Letters


def test_mean_metric() -> None:
    metric = mean_metric([1.0, 0.0, 1.0, 1.0])
    assert metric.value == 75.0
    assert metric.n == 4
    assert metric.items == (1.0, 0.0, 1.0, 1.0)
    assert metric.interval is not None
    assert 0 <= metric.interval[0] < 75 < metric.interval[1] <= 100
    assert mean_metric([]).value is None


def test_resampled_metric() -> None:
    pairs = np.array([[1.0, 2.0], [1.0, 1.0], [2.0, 1.0]])

    def ratio(rows: np.ndarray) -> float:
        return rows[:, 1].sum() / rows[:, 0].sum()

    metric = resampled_metric(pairs, ratio)
    assert metric.value == 100.0
    assert metric.n == 3
    assert metric.items is None
    assert metric.interval == pytest.approx([100 * bound for bound in bootstrap_interval(pairs, ratio)])
    assert resampled_metric([], lambda rows: 1.0).value is None


class Shouts(Letters):
    """Reads capital letters alone."""

    name = "shouts"
    score = Task.score

    def read(self, item, answer):
        return answer["text"] if answer["text"].isupper() else None

    def metrics(self, items, said):
        return {"length": mean_metric([len(text or "") for text in said]), "all": mean_metric([1.0] * len(said))}


def test_what_cannot_be_read_is_unparsed_and_the_first_metric_is_the_headline() -> None:
    answers = [{"text": text} for text in ("AB", "ab", "", "CD")]
    scores = Shouts().score([None] * 4, answers)
    assert (scores.headline, scores.unparsed) == ("length", 2)
    assert scores.metrics["length"].value == 100.0
    with pytest.raises(ValueError, match="zip"):
        Shouts().score([None] * 3, answers)


def test_by_default_an_answer_says_its_text() -> None:
    assert [Task.read(Letters(), None, {"text": text}) for text in (" a ", " \n", "")] == [" a ", None, None]


def test_a_task_has_a_value_or_metrics_or_a_score_of_its_own() -> None:
    for task in all_tasks().values():
        assert task.value is not Task.value or task.metrics is not Task.metrics or task.score is not Task.score
    with pytest.raises(NotImplementedError, match="Letters defines none of"):
        Task.score(Letters(), [None], [{"text": "a"}])


class Parts(Shouts):
    """Half right where the text is the reference; by colour."""

    name = "parts"
    parts: ClassVar = {"colour": ("red/blue", "green")}
    metrics = Task.metrics

    def value(self, item, said):
        return 0.5 * (said == item.reference)


def test_by_default_the_mean_of_the_values_of_all_and_of_each_part() -> None:
    items = [Item(None, "A", {"colour": colour}) for colour in ("red/blue", "green", "red/blue", "grey")]
    scores = Parts().score(items, [{"text": text} for text in ("A", "B", "a", "A")])
    assert {name: (metric.value, metric.n) for name, metric in scores.metrics.items()} == {
        "accuracy": (25.0, 4),
        "accuracy_red_blue": (25.0, 2),
        "accuracy_green": (0.0, 1),
    }


def test_missing_files_are_all_named(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"2 of its files are missing(.|\n)*letters\.json: the questions, from the test"
    ):
        Letters().check(tmp_path)
