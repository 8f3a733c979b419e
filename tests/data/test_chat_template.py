"""Answers are found in whatever a tokenizer's chat template writes."""

import copy

import pytest
from transformers import PreTrainedTokenizerFast

from llava_mocle.data.conversation import Turn
from llava_mocle.data.templates import get_template
from llava_mocle.errors import ConfigError, DataError

LOOP = "{{% for m in messages %}}{}{{% endfor %}}{{% if add_generation_prompt %}}{}{{% endif %}}"
# Written in the manner of well-known models: how each writes a turn, and its generation prompt.
STYLES = {
    "chatml": ("{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}", "<|im_start|>assistant\n"),
    "llama 3, trims": (
        "{{'<|im_start|>' + m['role'] + '<|endoftext|>\n\n' + m['content'] | trim + '<|im_end|>'}}",
        "<|im_start|>assistant<|endoftext|>\n\n",
    ),
    "vicuna, space after the header": (
        "{% if m['role'] == 'user' %}USER: {{m['content']}} {% else %}ASSISTANT: {{m['content']}}<|im_end|>{% endif %}",
        "ASSISTANT:",
    ),
    "mistral, spaces around": (
        "{% if m['role'] == 'user' %}[INST] {{m['content']}} [/INST]{% else %} {{m['content']}} <|im_end|>{% endif %}",
        "",
    ),
    "marked, end of turn is text": (
        "{% if m['role'] == 'user' %}# {{m['content']}}\n{% else %}> "
        "{% generation %}{{m['content']}} //{% endgeneration %}\n{% endif %}",
        "> ",
    ),
    "empty thoughts in the last turn": (
        "{{'<|im_start|>' + m['role'] + '\n'}}{% if loop.last and m['role'] == 'assistant' %}"
        "{{'<think>\n\n</think>\n\n'}}{% endif %}{{m['content'] + '<|im_end|>\n'}}",
        "<|im_start|>assistant\n",
    ),
}
SPANS = {
    "chatml": ["{}<|im_end|>", "{}<|im_end|>"],
    "llama 3, trims": ["{}<|im_end|>", "{}<|im_end|>"],
    "vicuna, space after the header": [" {}<|im_end|>", " {}<|im_end|>"],
    "mistral, spaces around": [" {} <|im_end|>", " {} <|im_end|>"],
    "marked, end of turn is text": ["{} //", "{} //"],
    "empty thoughts in the last turn": ["{}<|im_end|>", "{}<|im_end|>"],
}


def with_template(tokenizer: PreTrainedTokenizerFast, turn: str, prompt: str) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = LOOP.format(turn, prompt)
    return tokenizer


@pytest.mark.parametrize("answers", [("A cat.", "A dog."), ("assistant", "user"), ("q", "q"), (" padded\n", "\nx ")])
@pytest.mark.parametrize("style", STYLES)
def test_spans(style: str, answers: tuple[str, str], chatml: PreTrainedTokenizerFast) -> None:
    template = get_template("chat", with_template(chatml, *STYLES[style]))
    turns = [Turn("human", "q"), Turn("gpt", answers[0]), Turn("human", answers[0]), Turn("gpt", answers[1])]
    rendered = template.render(turns)
    found = [rendered.text[start:end] for start, end in rendered.assistant_spans]
    written = [answer.strip() if "trims" in style else answer for answer in answers]
    assert found == [form.format(answer) for form, answer in zip(SPANS[style], written, strict=True)]


def test_system_message(chatml: PreTrainedTokenizerFast) -> None:
    turns = [Turn("human", "q")]
    default = get_template("chat", chatml).render(turns, generation_prompt=True).text
    assert default == "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert "system\n<|im_end|>" in get_template("chat", chatml, system="").render(turns, generation_prompt=True).text


def test_without_a_chat_template(chatml: PreTrainedTokenizerFast) -> None:
    bare = copy.deepcopy(chatml)
    bare.chat_template = None
    for tokenizer in (None, bare):
        with pytest.raises(ConfigError, match="chat_template"):
            get_template("chat", tokenizer)


def test_nothing_after_an_answer(chatml: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="learn to stop"):
        get_template("chat", with_template(chatml, "{{m['role'] + ': ' + m['content']}}\n", "assistant: "))


def test_template_that_changes_answers(chatml: PreTrainedTokenizerFast) -> None:
    shouting = with_template(chatml, "{{m['role'] + m['content'] | upper + '<|im_end|>'}}", "assistant")
    with pytest.raises(DataError, match="rewrites or drops"):
        get_template("chat", shouting)
    # One that only changes some answers is found out at the first of them.
    picky = with_template(chatml, "{{m['role'] + m['content'].replace('cat', 'dog') + '<|im_end|>'}}", "assistant")
    template = get_template("chat", picky)
    assert template.render([Turn("human", "q"), Turn("gpt", "bird")]).assistant_spans
    with pytest.raises(DataError, match="rewrites or drops"):
        template.render([Turn("human", "q"), Turn("gpt", "cat")])


def test_template_that_refuses_says_why(chatml: PreTrainedTokenizerFast) -> None:
    strict = with_template(
        chatml, "{% if m['content'] == 'no' %}{{raise_exception('bad word')}}{% endif %}{{m['content']}}<|im_end|>", ""
    )
    with pytest.raises(DataError, match="bad word"):
        get_template("chat", strict).render([Turn("human", "no"), Turn("gpt", "a")])
