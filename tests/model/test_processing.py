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
    tokenizer.chat_template = {"default": "{{ messages }}", "other": tokenizer.chat_template}
    assert choose_template(tmp_path, tokenizer, LLAMA) == "vicuna_v1"
    (tmp_path / "llava_mocle.json").write_text('{"template": "mistral"}')
    assert choose_template(tmp_path, tokenizer, LLAMA) == "mistral"
    assert choose_template(tmp_path, tokenizer, LLAMA, {"version": "plain"}) == "plain"
    (tmp_path / "llava_mocle.json").write_text('{"template": 3}')
    with pytest.raises(CheckpointError, match="template is 3"):
        choose_template(tmp_path, tokenizer, LLAMA)


def test_max_length_is_the_tightest_known_limit():
    tokenizer = make_tokenizer()
    assert max_length(tokenizer, LLAMA) == 512
    tokenizer.model_max_length = 10**30
    assert max_length(tokenizer, LLAMA) == 4096
    assert max_length(tokenizer, SimpleNamespace()) == 2048


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


# As published with llava-hf's LLaVA-1.5: the role is written by code, and content comes in parts.
ROLE_BY_CODE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.mark.parametrize("strict", [False, True])
def test_vicuna_is_recognised_by_what_its_chat_template_renders(tmp_path, strict):
    tokenizer = make_tokenizer()
    refusal = "{% if messages[0]['content'] is string %}{{ raise_exception('parts only') }}{% endif %}"
    tokenizer.chat_template = refusal * strict + ROLE_BY_CODE
    assert "USER" not in tokenizer.chat_template
    assert choose_template(tmp_path, tokenizer, LLAMA) == "vicuna_v1"
    tokenizer.chat_template = "{# USER: ASSISTANT: #}{{ messages[0]['content'] }}"
    assert choose_template(tmp_path, tokenizer, LLAMA) == "chat"
