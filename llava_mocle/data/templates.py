"""The named prompt templates. Each is frozen: checkpoints depend on its every character."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_mocle.data.chat_template import ChatTemplate
from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, Rendered, Template, Turn
from llava_mocle.data.template_names import template_name
from llava_mocle.data.tokenize import start_of_text
from llava_mocle.errors import ConfigError, DataError

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Llama 2's own default, double space included.
LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)


def check_order(name: str, turns: Sequence[Turn], generation_prompt: bool) -> None:
    """Raise unless human and assistant alternate, starting with the human and ending with whom the caller needs."""
    expected = [(HUMAN, ASSISTANT)[index % 2] for index in range(len(turns))]
    if not turns or [turn.role for turn in turns] != expected:
        roles = ", ".join(turn.role for turn in turns) or "no turns"
        raise DataError(f"template {name}: found {roles}; expected human and gpt in turn, human first")
    last = HUMAN if generation_prompt else ASSISTANT
    if turns[-1].role != last:
        raise DataError(f"template {name}: the last turn is {turns[-1].role}, expected {last}")


@dataclass(frozen=True)
class TurnTemplate(Template):
    """A template that is a concatenation: each human turn and each answer between fixed strings.

    Attributes:
        opening: goes in front; `{system}` stands for the system prompt.
        system_in_turn: goes in front of the first human text; left out when the system prompt is empty.
        before_human / after_human: around every human text.
        header: what the generation prompt ends with.
        lead: between the header and the answer; the model has to write it, so it is supervised.
        trail: between the answer and the end of turn; supervised for the same reason.
        end: end of turn; the tokenizer's end-of-text token.
        restart: between an answer and the next human turn.
    """

    name: str
    system: str = ""
    opening: str = ""
    system_in_turn: str = ""
    before_human: str = ""
    after_human: str = ""
    header: str = ""
    lead: str = " "
    trail: str = ""
    end: str = "</s>"
    restart: str = ""

    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        check_order(self.name, turns, generation_prompt)
        text = self.opening.format(system=self.system)
        spans = []
        for index, turn in enumerate(turns):
            if turn.role == HUMAN:
                text += (self.restart if index else "") + self.before_human
                if index == 0 and self.system:
                    text += self.system_in_turn.format(system=self.system)
                text += turn.text + self.after_human + self.header
            else:
                start = len(text)
                text += self.lead + turn.text + self.trail + self.end
                spans.append((start, len(text)))
        return Rendered(text, tuple(spans))

    def identity(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class PlainTemplate(Template):
    """Stage 1: the images, then the caption. Of the human turn only its image tags remain."""

    name: str = "plain"
    end: str = "\n"

    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        check_order(self.name, turns, generation_prompt)
        if len(turns) > 2:
            raise DataError(
                f"template plain: found {len(turns)} turns, expected one human and one gpt; use vicuna_v1 or chat"
            )
        images = IMAGE_TOKEN * turns[0].text.count(IMAGE_TOKEN)
        if not images:
            raise DataError("template plain: the human turn has no <image>; captions need one, or use another template")
        if generation_prompt:
            return Rendered(images)
        text = images + turns[1].text + self.end
        return Rendered(text, ((len(images), len(text)),))

    def identity(self) -> str:
        return repr(self)


VICUNA_V1 = TurnTemplate(
    name="vicuna_v1",
    system=VICUNA_SYSTEM,
    opening="{system} ",
    before_human="USER: ",
    after_human=" ",
    header="ASSISTANT:",
)
LLAMA_2 = TurnTemplate(
    name="llama_2",
    system=LLAMA_2_SYSTEM,
    system_in_turn="<<SYS>>\n{system}\n<</SYS>>\n\n",
    before_human="[INST] ",
    header=" [/INST]",
    trail=" ",
    restart="<s>",
)
MISTRAL = TurnTemplate(
    name="mistral",
    system_in_turn="{system}\n\n",
    before_human="[INST] ",
    header=" [/INST]",
)
# The question and the answer alone. Joined by a space they have the tokens that LAVIS gives each by itself.
INSTRUCTBLIP = TurnTemplate(name="instructblip")
PLAIN = PlainTemplate()

_TURN_TEMPLATES = {template.name: template for template in (VICUNA_V1, LLAMA_2, MISTRAL, INSTRUCTBLIP)}


def get_template(name: str, tokenizer: Any = None, system: str | None = None) -> Template:
    """The template of that name.

    Args:
        name: one of `TEMPLATE_NAMES`, or LLaVA's `v1`.
        tokenizer: its end-of-text token ends every answer (`</s>` without a tokenizer); `chat` needs it for its chat
            template.
        system: a system prompt in place of the template's own; "" for none.

    Raises:
        ConfigError: unknown name, a system prompt for `plain`, or a tokenizer that lacks what the template needs.
    """
    name = template_name(name)
    if name == "chat":
        return ChatTemplate.from_tokenizer(tokenizer, system)
    if name in ("plain", "instructblip") and system:
        raise ConfigError(f"template {name} has no place for a system prompt; leave it out or use another template")
    if name == "plain":
        return PLAIN
    template = _TURN_TEMPLATES[name]
    if system is not None:
        template = replace(template, system=system)
    return template if tokenizer is None else _with_ends_of(template, tokenizer)


def _with_ends_of(template: TurnTemplate, tokenizer: Any) -> TurnTemplate:
    if not tokenizer.eos_token:
        raise ConfigError(
            f"template {template.name} ends each answer with the tokenizer's end-of-text token, but this "
            f"{type(tokenizer).__name__} has none; set eos_token in its tokenizer_config.json"
        )
    # Llama's own chats have the start-of-text token after every answer; a tokenizer that has none has none to repeat.
    restart = tokenizer.bos_token if template.restart and start_of_text(tokenizer) else ""
    return replace(template, end=tokenizer.eos_token, restart=restart)
