import pytest
from transformers import PreTrainedTokenizerFast

from llava_mocle.data.conversation import Template, Turn
from llava_mocle.data.template_names import TEMPLATE_NAMES
from llava_mocle.data.templates import LLAMA_2_SYSTEM, get_template
from llava_mocle.errors import ConfigError, DataError

TWO_ROUNDS = [
    Turn("human", "<image>\nWhat is it?"),
    Turn("gpt", "A cat."),
    Turn("human", " And now? "),
    Turn("gpt", "A dog."),
]
RENDERED = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT: A cat.</s>"
        "USER:  And now?  ASSISTANT: A dog.</s>"
    ),
    "llama_2": (
        f"[INST] <<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n<image>\nWhat is it? [/INST] A cat. </s>"
        "<s>[INST]  And now?  [/INST] A dog. </s>"
    ),
    "mistral": "[INST] <image>\nWhat is it? [/INST] A cat.</s>[INST]  And now?  [/INST] A dog.</s>",
}
SPANS = {
    "vicuna_v1": [" A cat.</s>", " A dog.</s>"],
    "llama_2": [" A cat. </s>", " A dog. </s>"],
    "mistral": [" A cat.</s>", " A dog.</s>"],
}


def spans(template: Template, turns: list[Turn]) -> list[str]:
    rendered = template.render(turns)
    return [rendered.text[start:end] for start, end in rendered.assistant_spans]


@pytest.mark.parametrize("name", RENDERED)
def test_every_character_of_a_template(name: str) -> None:
    template = get_template(name)
    assert template.render(TWO_ROUNDS).text == RENDERED[name]
    assert spans(template, TWO_ROUNDS) == SPANS[name]


@pytest.mark.parametrize("name", RENDERED)
def test_generation_prompt(name: str) -> None:
    template = get_template(name)
    prompt = template.render(TWO_ROUNDS[:3], generation_prompt=True)
    assert RENDERED[name].startswith(prompt.text)
    assert RENDERED[name][len(prompt.text) :] == SPANS[name][1]


def test_plain_keeps_the_images_and_the_caption() -> None:
    template = get_template("plain")
    turns = [Turn("human", "<image>\nDescribe it."), Turn("gpt", " A cat. ")]
    assert template.render(turns).text == "<image> A cat. \n"
    assert spans(template, turns) == [" A cat. \n"]
    assert template.render(turns[:1], generation_prompt=True).text == "<image>"


def test_empty_system_prompts() -> None:
    turns = [Turn("human", "q"), Turn("gpt", "a")]
    assert get_template("vicuna_v1", system="").render(turns).text == " USER: q ASSISTANT: a</s>"
    assert get_template("llama_2", system="").render(turns).text == "[INST] q [/INST] a </s>"
    assert get_template("mistral", system="Be {brief}.").render(turns).text == "[INST] Be {brief}.\n\nq [/INST] a</s>"


def test_end_of_turn_is_the_tokenizers(chatml: PreTrainedTokenizerFast) -> None:
    turns = [Turn("human", "q"), Turn("gpt", "a"), Turn("human", "q"), Turn("gpt", "a")]
    assert spans(get_template("vicuna_v1", chatml), turns) == [" a<|im_end|>"] * 2
    # This tokenizer starts no text by itself, so a second round doesn't start anew either.
    assert "<|im_start|>" not in get_template("llama_2", chatml).render(turns).text


def test_llava_name() -> None:
    assert get_template("v1") is get_template("vicuna_v1")


@pytest.mark.parametrize("name", ["vicuna_v1", "llama_2", "mistral", "plain"])
@pytest.mark.parametrize(
    "turns",
    [[], [Turn("gpt", "a")], [Turn("human", "q")], [Turn("human", "q"), Turn("human", "q")]],
)
def test_other_orders_are_refused(name: str, turns: list[Turn]) -> None:
    with pytest.raises(DataError, match=name):
        get_template(name).render(turns)


def test_what_plain_cannot_hold() -> None:
    with pytest.raises(DataError, match="no <image>"):
        get_template("plain").render([Turn("human", "q"), Turn("gpt", "a")])
    with pytest.raises(DataError, match="found 4 turns"):
        get_template("plain").render(TWO_ROUNDS)


@pytest.mark.parametrize("name", ["plain", "instructblip"])
def test_templates_without_a_system_prompt(name: str) -> None:
    with pytest.raises(ConfigError, match=f"template {name} has no place for a system prompt"):
        get_template(name, system="Be brief.")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"vicuna_v2.*vicuna_v1.*chat"):
        get_template("vicuna_v2")
    assert set(TEMPLATE_NAMES) == {"vicuna_v1", "plain", "llama_2", "mistral", "instructblip", "chat"}


def test_tokenizer_without_end_of_text(chatml: PreTrainedTokenizerFast) -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=chatml.backend_tokenizer)
    with pytest.raises(ConfigError, match="eos_token"):
        get_template("vicuna_v1", endless)
