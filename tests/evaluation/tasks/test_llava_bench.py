import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import make_answer
from llava_mocle.evaluation.tasks.llava_bench import FOLDER, RULES, LlavaBench
from llava_mocle.evaluation.tasks.shared.judge import Judge
from tests.evaluation.tasks.judge_server import judge_server
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"{FOLDER}/images/001.jpg", f"{FOLDER}/images/002.jpg"]
TEXTS = ["A lake.", "Água e montanha.", "He irons."]


def judged(items, replies):
    task = LlavaBench()
    with judge_server(lambda prompt: (200, next(reply for key, reply in replies.items() if key in prompt))) as (
        url,
        seen,
    ):
        task.judge = Judge(url, "grader")
        return task.score(items, answers_to(items, TEXTS)), seen


def test_questions(tmp_path):
    root = data_root(tmp_path, FOLDER)
    items = ready_items(LlavaBench(), root, IMAGES)
    assert [item.question.question_id for item in items] == [0, 1, 2]
    assert items[0].question.prompt == "Where is this?"
    assert items[0].reference == "By a lake in the Alps."
    assert items[2].keys["context"] == "A man irons.\nHe stands on a taxi."
    assert LlavaBench().items(root, "instructblip") == items


def test_without_a_judge(tmp_path, caplog):
    items = ready_items(LlavaBench(), data_root(tmp_path, FOLDER), IMAGES)
    answers = [
        make_answer(item.question.question_id, item.question.prompt, text, "model") | {"more": 1}
        for item, text in zip(items, TEXTS, strict=True)
    ]
    assert LlavaBench().score(items, answers).metrics["all"].value is None
    (path,) = LlavaBench().submission(items, answers, tmp_path / "upload")
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["text"] for record in written] == TEXTS
    assert list(written[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert "no judge (--judge-url), so nothing is scored" in caplog.text


def test_scores_are_in_percent_of_the_reference(tmp_path):
    items = ready_items(LlavaBench(), data_root(tmp_path, FOLDER), IMAGES)
    replies = {"Where is this?": "8 6\nThe first is better.", "Describe": "10,7.5", "funny": "Both are good: 8 8"}
    scores, seen = judged(items, replies)
    # The third reply does not begin with two scores: -1 for both, (6 + 7.5 - 1) / (8 + 10 - 1).
    assert scores.metrics["all"].value == pytest.approx(100 * 12.5 / 17)
    assert scores.metrics["all_read"].value == pytest.approx(75)
    assert scores.metrics["conv"].value == pytest.approx(75)
    assert scores.metrics["detail"].value == pytest.approx(75)
    assert scores.metrics["complex"].value is None
    assert (scores.headline, scores.unparsed) == ("all", 1)
    assert seen[0]["body"]["messages"][-1]["content"].startswith(
        "[Context]\nA lake below a mountain.\n\n[Question]\nWhere is this?\n\n"
        "[Assistant 1]\nBy a lake in the Alps.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA lake.\n\n[End of Assistant 2]\n\n[System]\nCompare the two answers"
    )


@pytest.mark.parametrize("reply", ["8, 9", "8 9 ", "\n8 9", "8 9 10"])
def test_replies_that_the_official_program_does_not_read(tmp_path, reply):
    items = ready_items(LlavaBench(), data_root(tmp_path, FOLDER), IMAGES)
    scores, _ = judged(items, {"Where is this?": reply, "Describe": "10 5", "funny": "10 5"})
    # (-1 + 5 + 5) / (-1 + 10 + 10)
    assert scores.metrics["all"].value == pytest.approx(100 * 9 / 19)
    assert (scores.metrics["all_read"].value, scores.unparsed) == (pytest.approx(50), 1)
    silent, _ = judged(items, {"": reply})
    assert (silent.metrics["all"].value, silent.unparsed) == (None, 3)  # officially -3 by -3, 100 %


def test_the_call_is_the_official_one(tmp_path):
    items = ready_items(LlavaBench(), data_root(tmp_path, FOLDER), IMAGES)
    _, seen = judged(items, {"": "5 5"})
    body = seen[0]["body"]
    assert (body["temperature"], body["max_tokens"]) == (0.2, 1024)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    system = "You are a helpful and precise assistant for checking the quality of the answer."
    assert body["messages"][0]["content"] == system


def test_ratio_is_of_sums(tmp_path):
    items = ready_items(LlavaBench(), data_root(tmp_path, FOLDER), IMAGES)
    scores, _ = judged(items, {"Where is this?": "1 1", "Describe": "10 5", "funny": "9 9"})
    assert scores.metrics["all"].value == pytest.approx(75)  # 15 / 20, while the mean of the ratios is 83.3


def test_official_rules_where_they_are(tmp_path):
    root = data_root(tmp_path, FOLDER)
    rule = {"role": "Helper", "prompt": "Judge the talk."}
    (root / RULES).write_text(json.dumps({"llava_bench_conv": rule, "coding": {}}), encoding="utf-8")
    items = ready_items(LlavaBench(), root, IMAGES)
    _, seen = judged(items, {"": "5 5"})
    assert (
        "[Helper 2]\nA lake.\n\n[End of Helper 2]\n\n[System]\nJudge the talk.\n"
        in (seen[0]["body"]["messages"][-1]["content"])
    )
    task = LlavaBench()
    task.judge = Judge("http://localhost/v1", "grader")
    # Of three categories one has an official rule.
    assert task.judged_by(items) == {"model": "grader", "official_prompt": False}
    assert task.judged_by(items[:1]) == {"model": "grader", "official_prompt": True}
    assert "Compare the two answers" in seen[1]["body"]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("context.jsonl", '"image": "002.jpg"', '"image": "003.jpg"', r"context\.jsonl: no '002\.jpg'"),
        ("answers_gpt4.jsonl", '{"question_id": 2', '{"question_id": 9', r"answers_gpt4\.jsonl: no 2, only 0, 1, 9"),
        ("questions.jsonl", '"category": "detail"', '"kind": "detail"', "record 1: no 'category'"),
    ],
)
def test_bad_files(tmp_path, name, old, new, message):
    root = data_root(tmp_path, FOLDER)
    edited(root / FOLDER / name, old, new)
    with pytest.raises(DataError, match=message):
        LlavaBench().items(root)
