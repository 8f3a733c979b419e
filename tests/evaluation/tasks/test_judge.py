import json

import pytest

from llava_mocle.errors import ConfigError, UserError
from llava_mocle.evaluation.tasks.judge import KEY_VARIABLE, Judge
from tests.evaluation.tasks.judge_server import judge_server


def test_a_reply_is_asked_for_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    with judge_server(lambda prompt: (200, f"seen: {prompt}")) as (url, seen):
        judge = Judge(url + "/", "grader", log=tmp_path / "judge/log.jsonl")
        assert judge.ask("é?", max_tokens=8) == "seen: é?"
        assert judge.ask("é?", max_tokens=8) == "seen: é?"
        assert len(seen) == 1
    assert seen[0]["path"] == "/v1/chat/completions"
    assert seen[0]["headers"]["Authorization"] == "Bearer s3cret"
    assert seen[0]["body"] == {
        "model": "grader",
        "messages": [{"role": "user", "content": "é?"}],
        "max_tokens": 8,
        "temperature": 0.0,
    }
    log = tmp_path / "judge/log.jsonl"
    assert "s3cret" not in repr(judge) + log.read_text(encoding="utf-8")
    log.write_text(log.read_text(encoding="utf-8") + '{"key": "half a li', encoding="utf-8")
    # The server is another now: the reply comes from the log, whose cut-off last line is dropped.
    with judge_server(lambda prompt: (200, "new")) as (url, _):
        judge = Judge(url, "grader", log=log)
        assert (judge.ask("é?", max_tokens=8), judge.ask("more?")) == ("seen: é?", "new")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reply"] for line in lines] == ["seen: é?", "new"]


def test_a_busy_server_is_asked_again():
    replies = iter([(429, "slow down"), (503, "later"), (200, "now")])
    with judge_server(lambda prompt: next(replies)) as (url, seen):
        assert Judge(url, "grader", pause=0.0).ask("?") == "now"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("reply", "asked", "message"),
    [
        ((401, "no such key"), 1, "HTTP 401: no such key"),
        ((500, "broken"), 2, "HTTP 500: broken"),
    ],
)
def test_a_server_that_refuses(reply, asked, message):
    with judge_server(lambda prompt: reply) as (url, seen), pytest.raises(UserError, match=message):
        Judge(url, "grader", attempts=2, pause=0.0).ask("?")
    assert len(seen) == asked


def test_no_server_and_another_form():
    with judge_server(lambda prompt: (201, '{"text": "0.5"}')) as (url, _):
        judge = Judge(url, "grader", attempts=1)
        with pytest.raises(UserError, match="expected OpenAI's form of a chat completion"):
            judge.ask("?")
    with pytest.raises(UserError, match=r"judge grader at http://127.*run again"):
        judge.ask("?")


@pytest.mark.parametrize(("url", "model"), [("localhost:8000", "grader"), ("http://localhost", "")])
def test_bad_settings(url, model):
    with pytest.raises(ConfigError, match="expected an http"):
        Judge(url, model)
