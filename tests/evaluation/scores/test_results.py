"""Scores on disk: whose they are, which are kept and which are replaced."""

import json
import shutil

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.together import Part
from llava_mocle.evaluation.scores.results import read_results
from llava_mocle.evaluation.suite import SuiteSettings, evaluate_tasks
from llava_mocle.evaluation.tasks.shared.judge import Judge
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.toy import JudgedLetters, Letters, OtherLetters, write_letters


@pytest.fixture
def root(tmp_path):
    return write_letters(tmp_path / "data")


def test_another_models_scores_are_not_mixed_in(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    other = FakePredictor(model_id="other@1")
    with pytest.raises(DataError, match=r"letters\.json: is of the model fake@00000000"):
        evaluate_tasks(other, [OtherLetters()], root, tmp_path)
    assert other.batches == []
    results = evaluate_tasks(other, [OtherLetters()], root, tmp_path, SuiteSettings(overwrite=True))
    assert list(results["tasks"]) == ["other_letters"]


def test_scores_go_only_once_the_questions_are_checked(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    (root / "images" / "red.png").unlink()
    with pytest.raises(DataError, match=r"red\.png"):
        evaluate_tasks(FakePredictor(model_id="other@1"), [Letters()], root, tmp_path, SuiteSettings(overwrite=True))
    assert (tmp_path / "scores" / "letters.json").exists()


def test_a_copy_of_a_score_is_left_alone(root, tmp_path) -> None:
    expected = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    shutil.copy(tmp_path / "scores" / "letters.json", tmp_path / "scores" / "letters_before.json")
    assert list(evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)["tasks"]) == ["letters"]
    assert read_results(tmp_path)["tasks"].keys() == expected["tasks"].keys()


def test_results_of_another_kind(tmp_path) -> None:
    (tmp_path / "results.json").write_text('{"kind": "held_out_exact_match"}')
    with pytest.raises(DataError, match="'held_out_exact_match'"):
        read_results(tmp_path)
    with pytest.raises(DataError, match="no results there"):
        read_results(tmp_path / "nothing")


def test_a_score_of_fewer_questions_does_not_replace_one_of_more(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    before = read_results(tmp_path)
    predictor, pilot = FakePredictor(), SuiteSettings(limit=2)
    message = r"letters\.json: is the score of 11 questions, but this run asks 2; choose another --output"
    with pytest.raises(DataError, match=message):
        evaluate_tasks(predictor, [OtherLetters(), Letters()], root, tmp_path, pilot)
    with pytest.raises(DataError, match="is the score of 11 questions"):
        evaluate_tasks(predictor, [Letters()], root, tmp_path, pilot, part=Part(0, 2, joins=False))
    assert predictor.batches == []
    assert read_results(tmp_path) == before
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)  # scored again in the same way
    replaced = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(limit=2, overwrite=True))
    assert replaced["tasks"]["letters"]["n"] == 2


def test_parts_that_overwrite_make_room_for_what_is_joined(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters(), OtherLetters()], root, tmp_path)
    overwrite = SuiteSettings(limit=4, overwrite=True)
    for index in range(2):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, overwrite, part=Part(index, 2, joins=False))
    assert list(json.loads((tmp_path / "results.json").read_text())["tasks"]) == ["other_letters"]
    tasks = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(limit=4))["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"letters": 4, "other_letters": 11}


def test_an_overwritten_score_is_gone_even_if_the_run_fails(root, tmp_path) -> None:
    class Stopped(FakePredictor):
        def predict_batch(self, requests, **settings):
            raise KeyboardInterrupt

    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate_tasks(Stopped(), [Letters()], root, tmp_path, SuiteSettings(overwrite=True))
    with pytest.raises(DataError, match="no results there"):
        read_results(tmp_path)


def judged(model: str | None = "grader", official: bool = False) -> JudgedLetters:
    task = JudgedLetters()
    task.judge = None if model is None else Judge("http://localhost/v1", model)
    task.official = official
    return task


def test_the_judge_is_kept_with_the_score(root, tmp_path) -> None:
    tasks = evaluate_tasks(FakePredictor(), [judged(official=True), Letters()], root, tmp_path)["tasks"]
    assert tasks["judged_letters"]["settings"]["judge"] == {"model": "grader", "official_prompt": True}
    assert tasks["letters"]["settings"]["judge"] is None


def test_a_run_without_a_judge_keeps_the_judged_score(root, tmp_path, caplog) -> None:
    unscored = evaluate_tasks(FakePredictor(), [judged(None)], root, tmp_path)["tasks"]["judged_letters"]
    assert unscored["metrics"]["accuracy"]["value"] is None
    assert caplog.text == ""
    before = evaluate_tasks(FakePredictor(), [judged()], root, tmp_path)
    assert before["tasks"]["judged_letters"]["metrics"]["accuracy"]["n"] == 11
    after = evaluate_tasks(FakePredictor(), [judged(None), Letters()], root, tmp_path)["tasks"]
    assert after["judged_letters"] == before["tasks"]["judged_letters"]
    assert "letters" in after
    assert "keeps the score of 11 questions, graded by grader with our prompt" in caplog.text
    anew = evaluate_tasks(FakePredictor(), [judged(None)], root, tmp_path, SuiteSettings(overwrite=True))["tasks"]
    assert anew["judged_letters"]["metrics"]["accuracy"]["value"] is None


@pytest.mark.parametrize(
    ("second", "named"),
    [(("other",), "other with our prompt"), (("grader", True), "grader with the official prompt")],
)
def test_another_judges_score_is_refused(root, tmp_path, second, named) -> None:
    evaluate_tasks(FakePredictor(), [judged()], root, tmp_path)
    with pytest.raises(DataError, match=rf"was graded by grader with our prompt, but this run's judge is {named}"):
        evaluate_tasks(FakePredictor(), [judged(*second)], root, tmp_path)
    evaluate_tasks(FakePredictor(), [judged()], root, tmp_path)
    (tmp_path / "scores" / "judged_letters.json").unlink()  # the way that costs no answer
    predictor = FakePredictor()
    tasks = evaluate_tasks(predictor, [judged(*second)], root, tmp_path)["tasks"]
    assert tasks["judged_letters"]["settings"]["judge"]["model"] == second[0]
    assert predictor.batches == []
