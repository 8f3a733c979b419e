import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.results import judge_name
from llava_mocle.evaluation.tasks.mm_vet import PROMPT_FILE, MMVet
from llava_mocle.evaluation.tasks.shared.judge import Judge
from tests.evaluation.tasks.judge_server import judge_server
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["mm-vet/images/v1_0.png", "mm-vet/images/v1_1.jpg"]
TEXTS = ["x = -1", "西安", "It says stop | go"]


def test_questions(tmp_path):
    root = data_root(tmp_path, "mm-vet")
    items = ready_items(MMVet(), root, IMAGES)
    assert [item.question.question_id for item in items] == [0, 1, 2]  # LLaVA's converter puts v1_ in front
    assert [item.question.key for item in items] == ["v1_0", "v1_1", "v1_2"]
    assert items[0].question.prompt == "What is x in the equation?"
    assert items[1].reference == "Xi'an <OR> 西安"
    assert MMVet().items(root, "instructblip") == items


def test_without_a_judge(tmp_path, caplog):
    items = ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES)
    answers = answers_to(items, TEXTS)
    scores = MMVet().score(items, answers)
    assert (scores.metrics[scores.headline].value, scores.metrics[scores.headline].n) == (None, 0)
    (path,) = MMVet().submission(items, answers, tmp_path / "upload")
    assert json.loads(path.read_text(encoding="utf-8")) == {"v1_0": TEXTS[0], "v1_1": TEXTS[1], "v1_2": TEXTS[2]}
    assert "no judge (--judge-url), so nothing is scored" in caplog.text


def test_grades(tmp_path):
    def reply(prompt):
        row = prompt.split("\n--- | --- | --- | ---\n")[1]
        if "x in the equation" in row:
            return 200, "0.5 because half of it"
        if "Which city" in row:
            # No grade at first.
            return 200, "1.0" if "number from 0.0 to 1.0, is" in row else "10"
        return 200, "I can't tell"

    items = ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES)
    task = MMVet()
    with judge_server(reply) as (url, seen):
        task.judge = Judge(url, "grader")
        scores = task.score(items, answers_to(items, TEXTS))
    assert scores.metrics["total"].items == (0.5, 1.0, 0.0)
    assert scores.metrics["total"].value == pytest.approx(50)
    # ocr: the first and the last question.
    values = {name: scores.metrics[name].value for name in ("know", "math", "ocr", "rec")}
    assert values == pytest.approx({"know": 100, "math": 50, "ocr": 25, "rec": 100})
    assert scores.unparsed == 1
    # One call, two, and the five after which the official evaluator gives up.
    assert [entry["body"]["temperature"] for entry in seen] == [0, 0, 0, 0, 0, 0.5, 1.0, 1.5]
    assert {entry["body"]["max_tokens"] for entry in seen} == {3}
    first = seen[0]["body"]
    assert first["messages"][0]["content"].endswith("\nWhat is x in the equation? | -1 <AND> -5 | x = -1 | ")
    assert first["messages"][0]["content"].startswith("You grade a prediction")


def test_a_space_in_front_is_asked_for_again_until_a_reply_is_read(tmp_path):
    replies = iter([" 0.7", "0.7.", "2", "", ".5"])
    (item,) = ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES)[:1]
    task = MMVet()
    with judge_server(lambda prompt: (200, next(replies))) as (url, seen):
        task.judge = Judge(url, "grader")
        assert task.score([item], answers_to([item], TEXTS[:1])).metrics["total"].items == (0.5,)
    assert [entry["body"]["temperature"] for entry in seen] == [0, 0, 0.5, 1.0, 1.5]
    first, *later = (entry["body"]["messages"][0]["content"] for entry in seen)
    assert first.endswith("| x = -1 | ")
    assert all(prompt.startswith(first + "\n") for prompt in later)


def test_a_judge_that_reasons_gets_more_tokens_and_the_grades_say_so(tmp_path):
    items, task = ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES), MMVet()
    with judge_server(lambda prompt: (200, "1")) as (url, seen):
        task.judge = Judge(url, "grader", max_tokens=512)
        task.score(items, answers_to(items, TEXTS))
    assert {entry["body"]["max_tokens"] for entry in seen} == {512}
    assert task.judged_by(items) == {"model": "grader", "official_prompt": False, "max_tokens": 512}


def test_runs_are_averaged_and_kept_apart(tmp_path):
    """Three runs of one answer: 0.2, 0.7, and one without a grade, which is 0."""
    replies = iter(["0.2", "0.7", *["no"] * 5])
    (item,) = ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES)[:1]
    task, log = MMVet(), tmp_path / "judge.jsonl"
    with judge_server(lambda prompt: (200, next(replies))) as (url, seen):
        for _ in range(2):  # the second time, all replies come from the log
            task.judge = Judge(url, "grader", log=log, runs=3)
            assert task.score([item], answers_to([item], TEXTS[:1])).metrics["total"].items == pytest.approx((0.3,))
    assert len(seen) == 7
    assert task.judged_by([item]) == {"model": "grader", "official_prompt": False, "runs": 3}
    assert judge_name(task.judged_by([item])) == "grader with our prompt and runs 3"


@pytest.mark.parametrize(("end", "encoding"), [("\n", "utf-8"), ("", "utf-8-sig")])
def test_official_prompt_where_it_is(tmp_path, end, encoding):
    root = data_root(tmp_path, "mm-vet")
    # A byte-order mark, and no line break at the end, are an editor's.
    (root / PROMPT_FILE).write_text(f"The official one.\n--- | --- | --- | ---{end}", encoding=encoding)
    items = ready_items(MMVet(), root, IMAGES)
    task = MMVet()
    with judge_server(lambda prompt: (200, "1")) as (url, seen):
        task.judge = Judge(url, "grader")
        assert task.score(items, answers_to(items, TEXTS)).metrics["total"].value == 100
    assert seen[1]["body"]["messages"][0]["content"] == (
        "The official one.\n--- | --- | --- | ---\n\nWhich city is this? | Xi'an <OR> 西安 | 西安 | "
    )
    assert task.judged_by(items) == {"model": "grader", "official_prompt": True}


def test_who_judges(tmp_path):
    task, items = MMVet(), ready_items(MMVet(), data_root(tmp_path, "mm-vet"), IMAGES)
    assert task.judged_by(items) is None
    task.judge = Judge("http://localhost/v1", "grader")
    assert task.judged_by(items) == {"model": "grader", "official_prompt": False}


def test_a_prompt_that_is_no_text(tmp_path):
    root = data_root(tmp_path, "mm-vet")
    (root / PROMPT_FILE).write_bytes(b"Grade \xe9")
    with pytest.raises(DataError, match=r"judge_prompt\.txt: byte 6 is not UTF-8"):
        MMVet().items(root)


def test_bad_file(tmp_path):
    root = data_root(tmp_path, "mm-vet")
    edited(root / "mm-vet/mm-vet.json", '"capability": ["ocr"]', '"abilities": ["ocr"]')
    with pytest.raises(DataError, match=r"mm-vet\.json, v1_2: no 'capability', only imagename"):
        MMVet().items(root)
