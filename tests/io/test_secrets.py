"""Tokens, keys and passwords are neither written nor printed."""

import json

import pytest

from llava_mocle.io.secrets import is_secret_name, mask_command, mask_urls, without_secrets


@pytest.mark.parametrize(
    "name", ["hub_token", "--hub-token", "token", "api_key", "--api-key", "WANDB_API_KEY", "a.secret"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["--max-new-tokens", "tokenizer", "key", "num_tokens", "report_to", "secretary"])
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pw@host:80/v1", "http://***@host:80/v1"),
        ("https://hf_abc@host/x?a=1", "https://***@host/x?a=1"),
        ("http://host/v1?a=1&write_token=abc&b=2", "http://host/v1?a=1&write_token=***&b=2"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("data/a@b.json", "data/a@b.json"),
    ],
)
def test_urls(text: str, masked: str) -> None:
    assert mask_urls(text) == masked
    assert mask_urls(masked) == masked


def test_command_lines() -> None:
    words = ["llava-mocle", "eval", "--judge-url", "http://me:pw@host/v1", "--hub_token", "abc", "--api-key=abc"]
    assert mask_command([*words, "--max-new-tokens", "7", "rows.json"]) == [
        "llava-mocle", "eval", "--judge-url", "http://***@host/v1", "--hub_token", "***", "--api-key=***",
        "--max-new-tokens", "7", "rows.json",
    ]  # fmt: skip
    assert mask_command(["--judge-url=http://me:pw@host/v1"]) == ["--judge-url=http://***@host/v1"]
    assert mask_command(["--hub_token", "--bf16"]) == ["--hub_token", "--bf16"]
    assert mask_command(["--deepspeed", '{"comet": {"api_key": "abc"}}']) == ["--deepspeed", '{"comet": {}}']


def test_nested_values() -> None:
    config = {"comet": {"enabled": True, "api_key": "abc"}, "list": [{"password": "abc"}, "http://a:b@c"], "n": 1}
    clean = {"comet": {"enabled": True}, "list": [{}, "http://***@c"], "n": 1}
    assert without_secrets(config) == clean
    assert json.loads(without_secrets(json.dumps(config))) == clean
    assert without_secrets('{"n":   1}') == '{"n":   1}'  # nothing to leave out: as it was
    assert without_secrets("{not json http://a:b@c") == "{not json http://***@c"
    assert config["comet"]["api_key"] == "abc"
