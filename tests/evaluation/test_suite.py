"""Benchmarks from files to results.json, in one process and in shards."""

import json

import pytest

from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.evaluation.answers import read_answers
from llava_mocle.evaluation.registry import all_tasks, get_tasks
from llava_mocle.evaluation.shards import Shard
from llava_mocle.evaluation.suite import SuiteSettings, evaluate_tasks, read_results
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.toy import Letters, write_letters


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


def test_shards_equal_one_run(root, tmp_path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = evaluate_tasks(FakePredictor(), [Letters()], root, whole)["tasks"]
    for index in (2, 0, 1):
        assert evaluate_tasks(FakePredictor(), [Letters()], root, parts, shard=Shard(index, 3), score=False) == {}
    joined = evaluate_tasks(FakePredictor(), [Letters()], root, parts)["tasks"]
    assert joined == expected
    name = "answers/letters.jsonl"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert [path.name for path in (parts / "answers").iterdir()] == ["letters.jsonl"]


def test_an_unfinished_shard_is_told(root, tmp_path) -> None:
    for index in (0, 2):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, shard=Shard(index, 3), score=False)
    with pytest.raises(DataError, match=r"of 3 shards of letters\.jsonl, 1 are not there"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path, shard=Shard(1, 3), score=False)
    cut = tmp_path / "answers" / "letters.1of3.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="hold 10 answers to 11 questions"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)


def test_other_answers_are_not_overwritten(root, tmp_path) -> None:
    evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path)
    other = FakePredictor(model_id="other@1")
    with pytest.raises(DataError, match="written by model 'fake@00000000'"):
        evaluate_tasks(other, [Letters()], root, tmp_path)
    results = evaluate_tasks(other, [Letters()], root, tmp_path, SuiteSettings(overwrite=True))
    assert results["model_id"] == "other@1"
    assert all(record["model_id"] == "other@1" for record in read_answers(tmp_path / "answers" / "letters.jsonl"))


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
    with pytest.raises(DataError, match=r"gone\.png, which does not exist"):
        evaluate_tasks(FakePredictor(), [Letters()], root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_another_kind(tmp_path) -> None:
    (tmp_path / "results.json").write_text('{"kind": "held_out_exact_match"}')
    with pytest.raises(UserError, match="'held_out_exact_match'"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="no results there"):
        read_results(tmp_path / "nothing")


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
