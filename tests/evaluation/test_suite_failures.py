"""A benchmark that fails, and what becomes of the others, in one process and in several."""

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.together import Part, PartnerLost
from llava_mocle.evaluation.suite import SuiteSettings, TasksFailed, evaluate_tasks
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.together import run_together
from tests.evaluation.toy import Letters, OtherLetters, write_letters


@pytest.fixture
def root(tmp_path):
    return write_letters(tmp_path / "data")


class Short(Letters):
    name = "short"

    def items(self, root, prompts="llava"):
        return super().items(root, prompts)[:4]


class Broken(Letters):
    """Its scorer can't be reached."""

    name = "broken"

    def score(self, items, answers):
        raise DataError("the judge does not answer")


def test_a_benchmark_that_fails_costs_nothing_of_the_others(root, tmp_path) -> None:
    with pytest.raises(TasksFailed, match=r"1 of 3 tasks failed.*\n  broken: the judge does not answer") as caught:
        evaluate_tasks(FakePredictor(), [Letters(), Broken(), OtherLetters()], root, tmp_path)
    assert list(caught.value.results["tasks"]) == ["letters", "other_letters"]
    assert caught.value.exit_code == 2
    # Its answers and what a server would take are there.
    assert (tmp_path / "submissions" / "broken" / "upload.json").exists()
    with pytest.raises(DataError, match="judge"):
        evaluate_tasks(FakePredictor(), [Broken()], root, tmp_path)
    with pytest.raises(TasksFailed, match="the same command without --overwrite goes on"):
        evaluate_tasks(FakePredictor(), [Broken(), Letters()], root, tmp_path, SuiteSettings(overwrite=True))


class Faulty(Letters):
    """Its scorer has a mistake."""

    name = "faulty"

    def score(self, items, answers):
        return None.metrics


def test_a_mistake_in_one_scorer_costs_nothing_of_the_others(root, tmp_path, caplog) -> None:
    with pytest.raises(TasksFailed, match=r"1 of 3 tasks failed.*\n  faulty: AttributeError: 'NoneType'") as caught:
        evaluate_tasks(FakePredictor(), [Letters(), Faulty(), OtherLetters()], root, tmp_path)
    assert list(caught.value.results["tasks"]) == ["letters", "other_letters"]
    assert "return None.metrics" in caplog.text  # the traceback
    with pytest.raises(AttributeError, match="metrics"):
        evaluate_tasks(FakePredictor(), [Faulty()], root, tmp_path)


def test_a_mistake_while_answering_costs_nothing_of_the_others(root, tmp_path) -> None:
    class Full(FakePredictor):
        def predict_batch(self, requests, **settings):
            if any(len(request.prompt) > 17 for request in requests):
                raise RuntimeError("out of memory")
            return super().predict_batch(requests, **settings)

    with pytest.raises(TasksFailed, match="letters: RuntimeError: out of memory") as caught:
        evaluate_tasks(Full(), [Letters(), Short()], root, tmp_path)
    assert list(caught.value.results["tasks"]) == ["short"]


def test_processes_together_go_on_after_a_mistake_in_a_scorer(root, tmp_path) -> None:
    tasks = [Faulty(), Letters()]
    found = run_together(2, lambda part: evaluate_tasks(FakePredictor(), tasks, root, tmp_path, part=part))
    assert "faulty: AttributeError" in str(found[0])
    assert list(found[0].results["tasks"]) == ["letters"]
    assert found[1] == {}


def test_processes_together_agree_on_what_failed(root, tmp_path) -> None:
    class Blind(FakePredictor):
        def predict_batch(self, requests, **settings):
            if any(len(request.prompt) > 17 for request in requests):
                raise DataError("9.png cannot be decoded")
            return super().predict_batch(requests, **settings)

    tasks = [Letters(), Short()]
    found = run_together(2, lambda part: evaluate_tasks(Blind(), tasks, root, tmp_path, part=part))
    told = "record 9: question 9 cannot be asked: 9.png cannot be decoded. "
    assert [told in str(error) for error in found] == [True, True]
    assert list(found[0].results["tasks"]) == ["short"]
    assert found[1].results == {}


def test_one_process_out_of_memory_costs_nothing_of_the_other_benchmarks(root, tmp_path) -> None:
    class Full(FakePredictor):
        def predict_batch(self, requests, **settings):
            if any(len(request.prompt) > 17 for request in requests):
                raise RuntimeError("out of memory")
            return super().predict_batch(requests, **settings)

    def work(part):
        predictor = Full() if part.index == 1 else FakePredictor()
        return evaluate_tasks(predictor, [Letters(), Short()], root, tmp_path, part=part)

    found = run_together(2, work)
    assert ["letters: RuntimeError: out of memory" in str(error) for error in found] == [True, True]
    assert list(found[0].results["tasks"]) == ["short"]


def test_a_process_that_is_gone_ends_the_others(root, tmp_path) -> None:
    def exchange(error):
        if (tmp_path / "answers").exists():
            raise RuntimeError("Connection closed by peer")
        return []

    with pytest.raises(PartnerLost, match=r"is gone \(Connection closed by peer\).*The same command goes on"):
        evaluate_tasks(FakePredictor(), [Letters(), OtherLetters()], root, tmp_path, part=Part(0, 2, exchange=exchange))
    assert not list((tmp_path / "answers").glob("other_letters*"))
