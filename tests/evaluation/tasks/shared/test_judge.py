import json

import pytest

from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.evaluation.tasks.shared.judge import KEY_VARIABLE, Judge
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


def test_a_reply_without_text_is_asked_for_again_and_never_kept(tmp_path):
    log = tmp_path / "judge.jsonl"
    replies = iter([None, "now"])
    with judge_server(lambda prompt: (200, next(replies))) as (url, seen):
        assert Judge(url, "grader", log=log, pause=0.0).ask("?") == "now"
    assert len(seen) == 2
    assert [json.loads(line)["reply"] for line in log.read_text().splitlines()] == ["now"]
    with judge_server(lambda prompt: (200, None)) as (url, seen):
        judge = Judge(url, "grader", log=log, attempts=2, pause=0.0)
        with pytest.raises(UserError, match=r"judge grader at .*a reply without text .*max_tokens=8.*run again"):
            judge.ask("another?", max_tokens=8)
    assert len(seen) == 2
    assert len(log.read_text().splitlines()) == 1


def test_a_system_message_goes_before_the_prompt():
    with judge_server(lambda prompt: (200, prompt)) as (url, seen):
        judge = Judge(url, "grader")
        assert judge.ask("?", system="Be strict.", temperature=0.2) == "?"
        assert judge.ask("?") == "?"
    assert seen[0]["body"]["messages"] == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": "?"},
    ]
    assert seen[0]["body"]["temperature"] == 0.2
    assert len(seen) == 2  # without it, it is another question


@pytest.mark.parametrize("status", [200, 503])
def test_a_reply_cut_short_is_asked_for_again(status):
    replies = iter([(status, "a long reply"), (200, "now")])
    with judge_server(lambda prompt: next(replies), cut_short=1) as (url, seen):
        assert Judge(url, "grader", pause=0.0).ask("?") == "now"
    assert len(seen) == 2
    with (
        judge_server(lambda prompt: (200, "?"), cut_short=9) as (url, _),
        pytest.raises(UserError, match=r"judge grader at .*IncompleteRead.*run again"),
    ):
        Judge(url, "grader", attempts=2, pause=0.0).ask("?")


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
    other = iter(['{"text": "0.5"}', '{"choices": [{"message": {"content": [0.5]}}]}'])
    with judge_server(lambda prompt: (201, next(other))) as (url, _):
        judge = Judge(url, "grader", attempts=1)
        for _ in range(2):
            with pytest.raises(UserError, match="expected OpenAI's form of a chat completion"):
                judge.ask("?")
    with pytest.raises(UserError, match=r"judge grader at http://127.*run again"):
        judge.ask("?")


@pytest.mark.parametrize(
    "line", ["{", "[1]", "3", '{"key": "a"}', '{"key": "a", "reply": null}', '{"reply": "a"}', "\u00e9"]
)
def test_a_damaged_log_is_named(tmp_path, line):
    log = tmp_path / "judge.jsonl"
    whole = b'{"key": "a", "reply": "b"}\n' + line.encode("latin-1") + b'\n\n{"key": "c", "reply": "d"}\n'
    log.write_bytes(whole)
    with pytest.raises(DataError, match=r"judge\.jsonl, line 2: .* is no reply of the judge"):
        Judge("http://localhost/v1", "grader", log=log)
    assert log.read_bytes() == whole
    log.write_bytes(whole.replace(line.encode("latin-1") + b"\n", b"", 1))
    Judge("http://localhost/v1", "grader", log=log)  # a blank line is forgiven


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("localhost:8000", "grader"),
        ("http://localhost", ""),
        ("http://", "grader"),
        ("http://localhost:abc/v1", "grader"),
        ("http://localhost:99999/v1", "grader"),
        ("http://[::1/v1", "grader"),
        ("http://me:secret@localhost/v1", "grader"),
        ("http://local host/v1", "grader"),
        ("http://localhost/v1\n", "grader"),
        ("http://localhost/vé", "grader"),
    ],
)
def test_bad_settings(url, model):
    with pytest.raises(ConfigError, match="expected an http") as caught:
        Judge(url, model)
    assert "secret" not in str(caught.value)
