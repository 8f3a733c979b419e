import json
import subprocess
import sys

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
        pytest.raises(UserError, match=r"judge grader at .*without sending complete message body.*run again"),
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
        ("http://localhost/v1?key=secret", "grader"),
        ("http://localhost/v1?key=me@secret", "grader"),
        ("me:secret@localhost/v1", "grader"),
    ],
)
def test_bad_settings(url, model):
    with pytest.raises(ConfigError, match="expected an http") as caught:
        Judge(url, model)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["s3cret\nX-Other: 1", "s3crét"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=KEY_VARIABLE) as caught:
        Judge("http://localhost/v1", "grader")
    assert "s3cr" not in str(caught.value)


def test_a_line_end_behind_the_key_is_forgiven(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "s3cret\n")
    with judge_server(lambda prompt: (200, "now")) as (url, seen):
        Judge(url, "grader").ask("?")
    assert seen[0]["headers"]["Authorization"] == "Bearer s3cret"


def test_a_key_that_the_server_repeats_is_not_shown(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    with (
        judge_server(lambda prompt: (401, "no such key: s3cret!")) as (url, _),
        pytest.raises(UserError, match=r"HTTP 401: no such key: \(the key\)!"),
    ):
        Judge(url, "grader").ask("?")


def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    with (
        judge_server(lambda prompt: (200, "stolen")) as (other, stolen),
        judge_server(lambda prompt: (302, "moved"), location=f"{other}/chat/completions") as (url, seen),
        pytest.raises(UserError, match="HTTP 302: moved"),
    ):
        Judge(url, "grader", pause=0.0).ask("?")
    assert (len(seen), stolen) == (1, [])


def test_the_environments_proxy_is_asked(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with judge_server(lambda prompt: (200, "by proxy")) as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy.removesuffix("/v1"))
        assert Judge("http://judge.invalid/v1", "grader", attempts=1).ask("?") == "by proxy"
    assert seen[0]["path"] == "http://judge.invalid/v1/chat/completions"


def test_a_server_that_is_silent_is_given_up():
    with (
        judge_server(lambda prompt: (200, "late"), silent=True) as (url, seen),
        pytest.raises(UserError, match=r"judge grader at .*: timed out\. Answers"),
    ):
        Judge(url, "grader", timeout=0.1, attempts=2, pause=0.0).ask("?")
    assert len(seen) == 2


def test_a_line_that_another_process_is_writing_is_left_to_it(tmp_path):
    log = tmp_path / "judge.jsonl"
    line = '{"key": "a", "reply": "a long reply"}\n'
    with open(log, "a") as other:
        other.write(line[:20])
        other.flush()
        Judge("http://localhost/v1", "grader", log=log)
        other.write(line[20:])
    assert log.read_text() == line


ASKS = """
import sys
from pathlib import Path
from llava_mocle.evaluation.tasks.shared.judge import Judge
judge = Judge(sys.argv[1], "grader", log=Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    judge.ask(f"{sys.argv[3]} {number}")
"""


def test_two_processes_share_a_log(tmp_path):
    """Replies longer than any buffer, while both write and a third opens the log again and again."""
    log = tmp_path / "judge.jsonl"
    with judge_server(lambda prompt: (200, prompt * 10_000)) as (url, _):
        command = [sys.executable, "-c", ASKS, url, str(log)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        jobs = {name: subprocess.Popen([*command, name], **pipes) for name in ("one", "two")}
        for job in jobs.values():
            assert job.stdout.readline() == "ready\n"
        for job in jobs.values():
            job.stdin.write("go\n")
            job.stdin.flush()
        while any(job.poll() is None for job in jobs.values()):
            Judge(url, "grader", log=log)
        assert [job.wait() for job in jobs.values()] == [0, 0]
        for job in jobs.values():
            job.stdin.close()
            job.stdout.close()
    prompts = [f"{name} {number}" for name in jobs for number in range(25)]
    with judge_server(lambda prompt: (500, "must not be asked")) as (url, seen):
        judge = Judge(url, "grader", log=log, attempts=1)
        assert [judge.ask(prompt) for prompt in prompts] == [prompt * 10_000 for prompt in prompts]
    assert seen == []
