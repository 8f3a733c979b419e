"""Our prompt templates as Jinja, which is what engines read; and the proof that both give the same tokens."""

import json
from collections.abc import Sequence
from typing import Any

from llava_mocle.clustering.instruction import HUMAN, IMAGE_TOKEN
from llava_mocle.data.chat_template import ChatTemplate
from llava_mocle.data.conversation import ASSISTANT, Template, Turn, place_images
from llava_mocle.data.templates import TurnTemplate
from llava_mocle.data.tokenize import start_of_text, tokenize_prompt
from llava_mocle.errors import CheckpointError

# What a Llama tokenizer puts in front of a text of its own. We tokenize the texts around images each on its own; an
# engine tokenizes all at once, and then some of these tokenizers leave it out unless it is written.
_MARKS = ("", "▁")
_ROLES = {HUMAN: "user", ASSISTANT: "assistant"}

# The content of a message as text: texts joined by newlines, `<image>` and a newline in front for each image.
_TEXT_OF = """
{%- macro text_of(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- set found = namespace(images=0, texts=[]) -%}
{%- for part in content -%}
{%- if part['type'] == 'text' -%}
{%- set found.texts = found.texts + [part['text']] -%}
{%- else -%}
{%- set found.images = found.images + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- set text = found.texts | join('\\n') -%}
{%- if found.images and IMAGE not in text -%}
{{- (IMAGE + '\\n') * found.images -}}
{%- endif -%}
{{- text -}}
{%- endif -%}
{%- endmacro -%}
"""
# The same with its images in front (`place_images`), and the mark where a text of its own begins.
_SHOWN = """
{%- macro shown(content) -%}
{%- set text = text_of(content) -%}
{%- set count = text.split(IMAGE) | length - 1 -%}
{%- if count -%}
{%- set rest = text | replace(IMAGE, '') | trim -%}
{%- if rest -%}
{{- (IMAGE + MARK + '\\n') * count + rest -}}
{%- else -%}
{{- (IMAGE + MARK + '\\n') * (count - 1) + IMAGE + LAST_MARK -}}
{%- endif -%}
{%- else -%}
{{- text -}}
{%- endif -%}
{%- endmacro -%}
"""
_TURNS = """
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = text_of(messages[0]['content']) -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = SYSTEM -%}
{%- set turns = messages -%}
{%- endif -%}
{{- START + BEFORE_SYSTEM -}}
{%- if HAS_SYSTEM -%}
{{- system + AFTER_SYSTEM -}}
{%- elif system and not SYSTEM_IN_TURN -%}
{{- raise_exception('this template has no place for a system prompt') -}}
{%- endif -%}
{%- for turn in turns -%}
{%- if loop.index0 % 2 == 0 -%}
{%- if turn['role'] != 'user' -%}
{{- raise_exception('user and assistant must take turns, and the user begins') -}}
{%- endif -%}
{%- if not loop.first -%}
{{- RESTART -}}
{%- endif -%}
{{- BEFORE_HUMAN -}}
{%- if loop.first and system and SYSTEM_IN_TURN -%}
{{- BEFORE_IN_TURN + system + AFTER_IN_TURN -}}
{%- endif -%}
{{- shown(turn['content']) -}}
{%- if add_generation_prompt or not loop.last -%}
{{- HEADER -}}
{%- endif -%}
{%- else -%}
{%- if turn['role'] != 'assistant' -%}
{{- raise_exception('user and assistant must take turns, and the user begins') -}}
{%- endif -%}
{{- LEAD + shown(turn['content']) + TRAIL -}}
{%- endif -%}
{%- endfor -%}
"""
# In front of a tokenizer's own template: messages whose content is text.
_AS_TEXT = """
{%- set all = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set all.messages = all.messages + [{'role': message['role'], 'content': shown(message['content'])}] -%}
{%- endfor -%}
{%- set messages = all.messages %}"""
_PLAIN = """
{{- START -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- IMAGE * (text_of(message['content']).split(IMAGE) | length - 1) -}}
{%- else -%}
{{- message['content'] + END -}}
{%- endif -%}
{%- endfor -%}
"""
# What engines are asked: with and without images, one turn and several, white space that templates may touch.
_PROBES: tuple[tuple[str, ...], ...] = (
    ("What is this?",),
    ("<image>\nWhat is this?",),
    ("What is this <image>", "It is a cat.", "And  this one?\n"),
    ("<image>\nHow many?", "Two, and 3.", "Which colour?", "Red", "Why?"),
    (" Compare <image> and <image> ", "They differ.", "How?"),
    ("Où est-il ? 图中有几只猫？",),
)


def jinja_of(template: Template, tokenizer: Any, engine_tokenizer: Any) -> str:
    """The Jinja source that writes what a template writes, proven on the tokenizers.

    Messages may hold text with `<image>` marks, or lists of texts and images, which then go in front. A message of the
    role system takes the place of the template's own.

    Args:
        template: of a LLaVA model.
        tokenizer: the model's own.
        engine_tokenizer: the same as an engine loads it from the bundle.

    Raises:
        CheckpointError: no Jinja source gives the same tokens.
    """
    for mark in _MARKS:
        source = _source(template, tokenizer, mark)
        difference = first_difference(template, tokenizer, engine_tokenizer, source)
        if difference is None:
            return source
    raise CheckpointError(
        f"template {template.name}: an engine would get other tokens than the model was trained on, because this "
        f"{type(tokenizer).__name__} reads the text around images otherwise when it is given all at once (for example "
        f"{difference}). Such a model cannot be exported; use it with `Predictor`."
    )


def text_jinja(template: Template, tokenizer: Any) -> str:
    """The same for an engine that reads text alone, and does itself what a tokenizer does at the start of a text."""
    return _source(template, tokenizer, _MARKS[0])


def first_difference(template: Template, tokenizer: Any, engine_tokenizer: Any, source: str) -> str | None:
    """The first of some conversations of which Jinja source and template make different tokens; None if none does."""
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    for texts in _PROBES:
        if template.name == "plain" and (len(texts) > 1 or IMAGE_TOKEN not in texts[0]):
            continue
        if template_tokens(template, tokenizer, texts, image_id) != jinja_tokens(source, engine_tokenizer, texts):
            return repr(texts)
    return None


def template_tokens(template: Template, tokenizer: Any, texts: Sequence[str], image_id: int) -> list[int]:
    """What training and `Predictor` make of a conversation, an image counted as one token.

    Args:
        texts: of human and assistant in turn; the last is the human's.
    """
    turns = [Turn((HUMAN, ASSISTANT)[index % 2], place_images(text)) for index, text in enumerate(texts)]
    return tokenize_prompt(turns, template, tokenizer, image_token_id=image_id, image_tokens_per_image=1).tolist()


def jinja_tokens(source: str, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """What an engine makes of the same."""
    messages = [{"role": list(_ROLES.values())[index % 2], "content": text} for index, text in enumerate(texts)]
    text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _source(template: Template, tokenizer: Any, mark: str) -> str:
    start = tokenizer.bos_token if template.adds_bos and start_of_text(tokenizer) else ""
    names = {"IMAGE": IMAGE_TOKEN, "MARK": mark, "LAST_MARK": mark, "START": start + mark * bool(start)}
    if isinstance(template, ChatTemplate):
        own = template.tokenizer.get_chat_template()
        return _constants(names) + _TEXT_OF + _SHOWN + _AS_TEXT + own
    if not isinstance(template, TurnTemplate):
        return _constants(names | {"START": start, "END": getattr(template, "end", "")}) + _TEXT_OF + _PLAIN
    before, has_system, after = template.opening.partition("{system}")
    in_turn = template.system_in_turn.partition("{system}")
    header = template.after_human + template.header
    names |= {
        "LAST_MARK": mark if header else "",
        "SYSTEM": template.system,
        "BEFORE_SYSTEM": before,
        "HAS_SYSTEM": bool(has_system),
        "AFTER_SYSTEM": after,
        "SYSTEM_IN_TURN": bool(template.system_in_turn),
        "BEFORE_IN_TURN": in_turn[0],
        "AFTER_IN_TURN": in_turn[2],
        "RESTART": template.restart,
        "BEFORE_HUMAN": template.before_human,
        "HEADER": header,
        "LEAD": template.lead,
        "TRAIL": template.trail + template.end,
    }
    return _constants(names) + _TEXT_OF + _SHOWN + _TURNS


def _constants(names: dict[str, Any]) -> str:
    return "\n".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in names.items())


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
