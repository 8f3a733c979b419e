"""Turns as the text that a processor takes: one placeholder an image, where the model's own template wants it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_mocle.data.chat_template import ChatTemplate
from llava_mocle.data.conversation import HUMAN, IMAGE_TOKEN, Rendered, Template, Turn
from llava_mocle.data.templates import check_order
from llava_mocle.errors import ConfigError

# A turn shows its images first, each with a newline behind it: the tags and newlines are LLaVA's, not this model's.
_TAG = re.compile(rf"{re.escape(IMAGE_TOKEN)}\n?")


class ChatProcessor:
    """A processor in the place of a `ChatTemplate`'s tokenizer: it renders the images that a text has tags for.

    Args:
        processor: one of transformers' with a chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.chat_template = processor.chat_template
        self.all_special_tokens = processor.tokenizer.all_special_tokens
        self.added_tokens_decoder = processor.tokenizer.added_tokens_decoder

    def get_chat_template(self) -> str:
        """The template's source."""
        source = self.chat_template
        return source if isinstance(source, str) else source["default"]

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **options: Any) -> str:
        """Render messages whose content is text with `<image>` tags."""
        parts = [{"role": message["role"], "content": contents(message["content"])} for message in messages]
        return self.processor.apply_chat_template(parts, **options)


def contents(text: str) -> list[dict[str, str]]:
    """A turn's text as the items that processors take: its images, then what is left of the text."""
    images = len(_TAG.findall(text))
    return [{"type": "image"}] * images + [{"type": "text", "text": _TAG.sub("", text)}]


@dataclass(frozen=True)
class PrefixTemplate(Template):
    """PaliGemma's: all images, the start of text, a question, a newline, the answer, the end of text.

    It was made for one question. Further turns follow in the same form.

    Attributes:
        image_token: the placeholder of an image.
        start: the tokenizer's start of text.
        end: the tokenizer's end of text.
    """

    image_token: str
    start: str
    end: str
    name: str = field(default="chat")
    adds_bos: bool = field(default=False)

    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        check_order(self.name, turns, generation_prompt)
        text = self.image_token * sum(turn.text.count(IMAGE_TOKEN) for turn in turns) + self.start
        spans = []
        for turn in turns:
            if turn.role == HUMAN:
                text += _TAG.sub("", turn.text) + "\n"
            else:
                start = len(text)
                text += turn.text + self.end
                spans.append((start, len(text)))
        return Rendered(text, tuple(spans))

    def identity(self) -> str:
        return repr(self)


def processor_template(processor: Any, name: str, system: str | None, *, chats: bool, model: str) -> Template:
    """The template of a model that has a processor.

    Args:
        name: "chat".
        chats: whether the model has a chat template.
        model: its name for people.

    Raises:
        ConfigError: another name, a system prompt that it has no place for, or a folder without a chat template.
    """
    if name != "chat":
        raise ConfigError(
            f"template is {name!r}, but {model} has a template of its own, which is called chat: leave it out "
            "(`version` in a recipe), or choose chat"
        )
    if chats:
        if not processor.chat_template:
            raise ConfigError(
                f"{model} needs the chat template of its folder, and there is none: put its chat_template.jinja (or "
                "chat_template.json) beside the tokenizer"
            )
        return ChatTemplate.from_tokenizer(ChatProcessor(processor), system)
    if system:
        raise ConfigError(f"{model} has no place for a system prompt; leave it out")
    tokenizer = processor.tokenizer
    return PrefixTemplate(processor.image_token, tokenizer.bos_token, tokenizer.eos_token)
