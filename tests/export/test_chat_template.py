"""The Jinja templates give the tokens that training gave, for every template, over several turns."""

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llava_mocle.data.templates import get_template
from llava_mocle.errors import CheckpointError
from llava_mocle.export.base_folder import write_tokenizer
from llava_mocle.export.chat_template import jinja_of, jinja_tokens, template_tokens
from llava_mocle.model.llama_tokenizer import load_llama_tokenizer
from llava_mocle.model.processing import prepare_tokenizer
from tests.data.sentencepiece_model import train_sentencepiece
from tests.inference.tiny import tiny_tokenizer

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<s>system\\nYou help.</s>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] | trim + '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
TALKS = (
    ("How many circles are there?",),
    ("<image>\nHow many circles are there?",),
    ("What is <image> and\n<image>?", "A cat, and a dog. ", "  Which is larger?\n", "The dog", "Why 3?"),
    ("<image>", "A brain.", "<image>\nAnd this?"),
    ('Quotes " and \\ and {{ braces }} and {% tags %}', "ok", "这是一只猫。 Это кошка"),
    ("</s> inside <s> of a text",),
)


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def llama(file: Path, folder: Path, legacy: bool) -> Any:
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(file.read_bytes())
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "LlamaTokenizer", "legacy": {str(legacy).lower()}}}'
    )
    tokenizer = load_llama_tokenizer(folder)
    prepare_tokenizer(tokenizer)
    return tokenizer


def check(template: Any, tokenizer: Any, folder: Path) -> None:
    engine = write_tokenizer(folder, tokenizer, template)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    for texts in TALKS:
        expected = template_tokens(template, tokenizer, texts, image_id)
        assert jinja_tokens(engine.chat_template, engine, texts) == expected, texts


@pytest.mark.parametrize("name", ["vicuna_v1", "llama_2", "mistral", "instructblip", "chat"])
def test_byte_level(name: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    check(get_template(name, tokenizer), tokenizer, tmp_path)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["vicuna_v1", "llama_2", "mistral"])
def test_llama(name: str, legacy: bool, llama_file: Path, tmp_path: Path) -> None:
    """An engine loads the tokenizer by transformers alone, which by itself gives other ids than LLaVA's."""
    tokenizer = llama(llama_file, tmp_path / "own", legacy)
    check(get_template(name, tokenizer), tokenizer, tmp_path / "engine")


def test_system_message() -> None:
    """A message of the role system is what `get_template` takes as `system`."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    for name in ("vicuna_v1", "llama_2", "mistral", "chat"):
        source = jinja_of(get_template(name, tokenizer), tokenizer, tokenizer)
        for system in ("Be brief.", ""):
            expected = template_tokens(get_template(name, tokenizer, system), tokenizer, ["Hi"], 4)
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hi"}]
            text = tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=True
            )
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, (name, system)


def test_contents_of_several_parts() -> None:
    """OpenAI's lists of texts and images: images go in front, as in training."""
    tokenizer = tiny_tokenizer()
    source = jinja_of(get_template("vicuna_v1", tokenizer), tokenizer, tokenizer)
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url"}, {"type": "text", "text": "this?"}]

    def rendered(content: Any) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=source, tokenize=False, add_generation_prompt=True
        )

    assert rendered(parts) == rendered("<image>\nWhat is\nthis?")
    assert rendered([*parts, {"type": "image"}]) == rendered("<image>\n<image>\nWhat is\nthis?")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    ],
)
def test_wrong_order_is_refused(messages: list[dict[str, str]]) -> None:
    tokenizer = tiny_tokenizer()
    source = jinja_of(get_template("vicuna_v1", tokenizer), tokenizer, tokenizer)
    with pytest.raises(Exception, match="take turns"):
        tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False)


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    """A tokenizer that an engine reads otherwise than training did, whatever is written in front of a text."""
    tokenizer = tiny_tokenizer()
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["What is"])
    other.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"other tokens than the model was trained on.*What is"):
        jinja_of(get_template("vicuna_v1", tokenizer), tokenizer, AutoTokenizer.from_pretrained(tmp_path))
