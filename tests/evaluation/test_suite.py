"""Benchmarks from files to results.json, in one process and in parts."""

import json
import logging
from dataclasses import replace

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.question import GenerationSettings
from llava_mocle.evaluation.answering.together import Part
from llava_mocle.evaluation.scores.results import read_results
from llava_mocle.evaluation.suite import SuiteSettings, evaluate_tasks
from llava_mocle.evaluation.task import Scores, mean_metric
from llava_mocle.evaluation.tasks.held_out import HeldOutRows
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.together import run_together
from tests.evaluation.toy import Letters, OtherLetters, write_letters

PROMPTS = [f"question {'x' * number}?" for number in range(11)]


@pytest.fixture
def root(tmp_path):
    return write_letters(tmp_path / "data")


def test_scores_and_files(root, tmp_path) -> None:
    out = tmp_path / "out"
    results = evaluate_tasks(FakePredictor(), [Letters()], root, out)
    entry = results["tasks"]["letters"]
    # 11 questions; of numbers 3, 7 (generated) and 11 (absent) the reference is wrong: 9 of 11 are right.
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(100 * 9 / 11)
    assert entry["metrics"]["accuracy"]["items"] == "1 1 1 0 1 1 1 0 1 1 1"
    assert entry["unparsed"] == 0
    assert sum(cluster["n"] for cluster in entry["clusters"].values()) == 11
    assert json.loads((out / "submissions" / "letters" / "upload.json").read_text())[2] == "short"
    assert entry["submission"] == ["submissions/letters/upload.json"]
    assert read_results(out) == json.loads(json.dumps(results))
    ranked = read_answers(out / "answers" / "letters.jsonl")[2]
    assert ranked["text"] == "short"
    assert ranked["metadata"]["scores"] == [-6.0, -5.0, -7.0]


def test_parts_equal_one_run(root, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = evaluate_tasks(FakePredictor(), [Letters()], root, whole)["tasks"]
    for index in (2, 0, 1):
        assert evaluate_tasks(FakePredictor(), [Letters()], root, parts, part=Part(index, 3, joins=False)) == {}
    joined = evaluate_tasks(FakePredictor(), [Letters()], root, parts)["tasks"]
    assert joined == expected
    assert evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path / "one", part=Part(0, 1, joins=False)) == {}
    assert [path.name for path in (tmp_path / "one" / "answers").iterdir()] == ["letters.0of1-0to11.jsonl"]
    name = "answers/letters.jsonl"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert [path.name for path in (parts / "answers").iterdir()] == ["letters.jsonl"]


def test_an_unfinished_part_is_told(root, tmp_path) -> None:
    for index in (0, 2):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, part=Part(index, 3, joins=False))
    with pytest.raises(DataError, match=r"letters\.jsonl was begun in 3 parts, and 1 of them are not there"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, part=Part(1, 3, joins=False))
    cut = tmp_path / "answers" / "letters.1of3-0to11.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"letters\.1of3-0to11\.jsonl: 3 answers to 4 questions"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)


def test_other_answers_are_not_overwritten(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    other = FakePredictor(model_id="other@1")
    with pytest.raises(DataError, match="is of the model fake@00000000"):
        evaluate_tasks(other, [Letters()], root, tmp_path)
    (tmp_path / "scores" / "letters.json").unlink()
    with pytest.raises(DataError, match="written by model 'fake@00000000'"):
        evaluate_tasks(other, [Letters()], root, tmp_path)
    results = evaluate_tasks(other, [Letters()], root, tmp_path, SuiteSettings(overwrite=True))
    assert results["model_id"] == "other@1"
    assert all(record["model_id"] == "other@1" for record in read_answers(tmp_path / "answers" / "letters.jsonl"))


def test_parts_replace_an_older_whole_file(root, tmp_path) -> None:
    """Overwritten in parts, then joined: the parts are newer, whatever the whole file held."""
    evaluate_tasks(FakePredictor(dict.fromkeys(PROMPTS, "old")), [Letters()], root, tmp_path)
    for index in range(2):
        settings = SuiteSettings(overwrite=True)
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, settings, part=Part(index, 2, joins=False))
    asked = FakePredictor()
    entry = evaluate_tasks(asked, [Letters()], root, tmp_path)["tasks"]["letters"]
    assert asked.batches == []
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(100 * 9 / 11)


def test_overwrite_in_one_process_forgets_parts(root, tmp_path) -> None:
    for index in range(2):
        old = FakePredictor(dict.fromkeys(PROMPTS, "old"))
        evaluate_tasks(old, [Letters()], root, tmp_path, part=Part(index, 2, joins=False))
    entry = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(overwrite=True))["tasks"][
        "letters"
    ]
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx(100 * 9 / 11)
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["letters.jsonl"]


def test_a_stale_set_of_parts_is_not_taken(root, tmp_path) -> None:
    old = FakePredictor(dict.fromkeys(PROMPTS, "old"))
    for index in range(2):
        evaluate_tasks(old, [Letters()], root, tmp_path, part=Part(index, 2, joins=False))
    for index in range(3):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, part=Part(index, 3, joins=False))
    with pytest.raises(DataError, match="has all parts of 2 and all of 3"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    other = FakePredictor(model_id="other@1")
    for path in (tmp_path / "answers").glob("*of3*"):
        path.unlink()
    with pytest.raises(DataError, match="written by model 'fake@00000000', but this run's model is 'other@1'"):
        evaluate_tasks(other, [Letters()], root, tmp_path)


def test_a_pilot_does_not_keep_the_full_run_from_being_shared_out(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(limit=3))
    asked = []
    for index in range(2):
        predictor = FakePredictor()
        evaluate_tasks(predictor, [Letters()], root, tmp_path, part=Part(index, 2, joins=False))
        asked.append(sum(map(len, predictor.batches)))
    assert all(asked)
    entry = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)["tasks"]["letters"]
    assert entry["n"] == 11


def test_parts_by_hand_meet_another_models_scores_before_they_answer(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    other, overwrite = FakePredictor(model_id="other@1"), SuiteSettings(overwrite=True)
    with pytest.raises(DataError, match="is of the model fake@00000000"):
        evaluate_tasks(other, [Letters()], root, tmp_path, part=Part(0, 2, joins=False))
    for index in range(2):
        evaluate_tasks(other, [Letters()], root, tmp_path, overwrite, part=Part(index, 2, joins=False))
    asked = len(other.batches)
    assert evaluate_tasks(other, [Letters()], root, tmp_path)["model_id"] == "other@1"
    assert len(other.batches) == asked


def test_settings_are_kept_with_each_task(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(prompts="instructblip"))
    tasks = evaluate_tasks(FakePredictor(), [OtherLetters()], root, tmp_path, SuiteSettings(num_beams=3))["tasks"]
    assert [task["settings"]["prompts"] for task in tasks.values()] == ["instructblip", "llava"]
    assert [task["settings"]["num_beams"] for task in tasks.values()] == [5, 3]


def test_how_answers_are_generated_unless_told() -> None:
    """LAVIS' defaults with InstructBLIP's prompts: `predict_answers` for short answers, `generate` for long ones."""

    class Long(Letters):
        max_new_tokens = 64

    blip = SuiteSettings(prompts="instructblip")
    assert SuiteSettings().generation(Letters()) == GenerationSettings(16)
    assert blip.generation(Letters()) == GenerationSettings(10, 5, length_penalty=0.0, repetition_penalty=1.5)
    assert blip.generation(Long()) == GenerationSettings(64, 5, length_penalty=1.0, repetition_penalty=1.5)
    assert blip.generation(HeldOutRows("rows", [])) == GenerationSettings(32)
    told = replace(blip, max_new_tokens=7, num_beams=2, length_penalty=-1.0, repetition_penalty=1.0)
    assert told.generation(Letters()) == GenerationSettings(7, 2, length_penalty=-1.0)
    # One beam is compared with no other: the length penalty of the task's own beams goes with them.
    assert replace(blip, num_beams=1).generation(Letters()) == GenerationSettings(10, 1, repetition_penalty=1.5)


def test_penalties_are_kept_with_each_answer(root, tmp_path) -> None:
    settings = SuiteSettings(num_beams=2, length_penalty=-1.0, repetition_penalty=1.5)
    entry = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, settings)["tasks"]["letters"]
    assert (entry["settings"]["length_penalty"], entry["settings"]["repetition_penalty"]) == (-1.0, 1.5)
    said = read_answers(tmp_path / "answers" / "letters.jsonl")[1]["metadata"]["generation"]
    assert said == "max_new_tokens=16 num_beams=2 temperature=0.0 length_penalty=-1.0 repetition_penalty=1.5"
    with pytest.raises(DataError, match=r"repetition_penalty=1\.5"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, replace(settings, repetition_penalty=1.2))


def test_settings_are_those_that_took_effect(root, tmp_path) -> None:
    settings = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)["tasks"]["letters"]["settings"]
    generated, ranked = read_answers(tmp_path / "answers" / "letters.jsonl")[1:3]
    assert f"max_new_tokens={settings['max_new_tokens']} " in generated["metadata"]["generation"]
    assert settings["max_new_tokens"] == Letters.max_new_tokens
    assert settings["predictor"] == ranked["metadata"]["predictor"] == "template=fake dtype=float32"
    given = SuiteSettings(max_new_tokens=3, overwrite=True)
    tasks = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, given)["tasks"]
    assert tasks["letters"]["settings"]["max_new_tokens"] == 3


def test_runs_that_were_asked_the_same_have_the_same_digest(root, tmp_path) -> None:
    def digest(**settings):
        tasks = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(overwrite=True, **settings))
        return tasks["tasks"]["letters"]["items_digest"]

    def changed(old, new):
        path = root / "letters.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        return digest()

    whole = digest()
    assert digest(num_beams=3) == whole
    # Fewer questions, another question, reference or candidate.
    others = [digest(limit=4), changed("question ?", "query ?"), changed("10 letters", "ten"), changed("longest", "l")]
    assert len({whole, *others}) == 5


def test_the_tasks_own_metric_is_broken_down_by_cluster(root, tmp_path) -> None:
    class Two(Letters):
        name = "two"
        cluster_metric = "answered"

        def score(self, items, answers):
            own = super().score(items, answers)
            return Scores("accuracy", {**own.metrics, "answered": mean_metric([1.0] * len(items))})

    tasks = evaluate_tasks(FakePredictor(), [Two(), Letters()], root, tmp_path)["tasks"]
    assert (tasks["two"]["cluster_metric"], tasks["letters"]["cluster_metric"]) == ("answered", "accuracy")
    assert {cluster["value"] for cluster in tasks["two"]["clusters"].values()} == {100.0}
    assert any(cluster["value"] < 100.0 for cluster in tasks["letters"]["clusters"].values())


def test_a_benchmark_without_questions_stops_before_the_first_answer(root, tmp_path) -> None:
    class Empty(Letters):
        name = "empty"

        def items(self, root, prompts="llava"):
            return []

    predictor = FakePredictor()
    with pytest.raises(DataError, match=r"empty: found no question in .*letters\.json.*expected those of toy"):
        evaluate_tasks(predictor, [Letters(), Empty()], root, tmp_path / "out")
    assert predictor.batches == []
    assert not (tmp_path / "out").exists()


def test_another_number_of_questions_than_published_is_told_once(root, tmp_path, caplog) -> None:
    class Published(Letters):
        name = "published"
        official_n = 12

    run_together(2, lambda part: evaluate_tasks(FakePredictor(), [Published()], root, tmp_path, part=part))
    assert caplog.text.count("published: its files hold 11 questions, but the published ones hold 12") == 1
    assert read_results(tmp_path)["tasks"]["published"]["official_n"] == 12
    caplog.clear()
    Published.older_n = (11,)
    entry = evaluate_tasks(FakePredictor(), [Published()], root, tmp_path)["tasks"]["published"]
    assert entry["official_n"] == 11
    Published.official_n, Published.older_n = 11, ()
    evaluate_tasks(FakePredictor(), [Published(), Letters()], root, tmp_path)
    Published.official_n = 12
    evaluate_tasks(FakePredictor(), [Published()], root, tmp_path / "pilot", SuiteSettings(limit=4))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_limit_is_kept_with_the_scores(root, tmp_path) -> None:
    entry = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, SuiteSettings(limit=4))["tasks"]["letters"]
    assert (entry["n"], entry["limit"]) == (4, 4)
    whole = evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)["tasks"]["letters"]
    assert (whole["n"], whole["limit"]) == (11, None)


def test_a_missing_image_and_a_duplicate_id_stop_before_the_first_answer(root, tmp_path) -> None:
    records = json.loads((root / "letters.json").read_text())
    (root / "letters.json").write_text(json.dumps([*records, records[0]]))
    with pytest.raises(DataError, match="question_id 0 stands 2 times"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path / "out")
    records[1]["image"] = "gone.png"
    (root / "letters.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=r"gone\.png: no such file or directory \(1 missing of 5\)"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
