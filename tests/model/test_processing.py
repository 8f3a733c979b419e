from types import SimpleNamespace

import pytest

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model.processing import choose_template, load_tokenizer, max_length, prepare_tokenizer
from tests.model.parts import make_tokenizer

LLAMA = SimpleNamespace(model_type="llama", max_position_embeddings=4096)


def test_template_by_what_the_folder_says(tmp_path):
    tokenizer = make_tokenizer()
    assert choose_template(tmp_path, tokenizer, LLAMA) == "vicuna_v1"
    with pytest.raises(CheckpointError, match="pass template="):
        choose_template(tmp_path, tokenizer, SimpleNamespace(model_type="qwen2"))
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{% endfor %}"
    assert choose_template(tmp_path, tokenizer, LLAMA) == "chat"
    tokenizer.chat_template = "{% for m in messages %}USER: {{ m }} ASSISTANT:{% endfor %}"
    assert choose_template(tmp_path, tokenizer, LLAMA) == "vicuna_v1"
    (tmp_path / "llava_mocle.json").write_text('{"template": "mistral"}')
    assert choose_template(tmp_path, tokenizer, LLAMA) == "mistral"
    assert choose_template(tmp_path, tokenizer, LLAMA, {"version": "plain"}) == "plain"
    (tmp_path / "llava_mocle.json").write_text('{"template": 3}')
    with pytest.raises(CheckpointError, match="template is 3"):
        choose_template(tmp_path, tokenizer, LLAMA)


def test_max_length_is_the_tightest_known_limit():
    tokenizer = make_tokenizer()
    assert max_length(tokenizer, LLAMA, {}) == 512
    assert max_length(tokenizer, LLAMA, {"model_max_length": 99}) == 99
    tokenizer.model_max_length = 10**30
    assert max_length(tokenizer, LLAMA, {}) == 4096
    assert max_length(tokenizer, SimpleNamespace(), {}) == 2048


def test_preparing_twice_changes_nothing():
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    assert prepare_tokenizer(tokenizer) == prepare_tokenizer(tokenizer) == size
    assert len(tokenizer) == size + 1
    assert tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize(("unknown", "padding"), [("<unk>", "<unk>"), (None, "</s>")])
def test_padding_token_is_one_that_exists(unknown, padding):
    tokenizer = make_tokenizer()
    tokenizer.unk_token = unknown
    size = len(tokenizer)
    prepare_tokenizer(tokenizer)
    assert (tokenizer.pad_token, len(tokenizer)) == (padding, size + 1)


def test_nothing_to_pad_with():
    tokenizer = make_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="pad_token"):
        prepare_tokenizer(tokenizer)


def test_a_tokenizer_without_offsets_is_refused(tmp_path, monkeypatch):
    make_tokenizer().save_pretrained(tmp_path)
    slow = SimpleNamespace(is_fast=False)
    monkeypatch.setattr("llava_mocle.model.processing.AutoTokenizer.from_pretrained", lambda path: slow)
    with pytest.raises(CheckpointError, match="character offsets"):
        load_tokenizer(tmp_path)
