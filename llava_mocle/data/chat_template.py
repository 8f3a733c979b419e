"""The `chat` template: the tokenizer's own chat template, with the assistant's spans found in its output."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_mocle.data.conversation import ASSISTANT, HUMAN, Rendered, Template, Turn
from llava_mocle.errors import ConfigError, DataError

_CHAT_ROLES = {HUMAN: "user", ASSISTANT: "assistant"}


@dataclass(frozen=True)
class ChatTemplate(Template):
    """Renders through `apply_chat_template`; works for any template, marked with `{% generation %}` or not.

    Attributes:
        system: a system message in front; None leaves it to the template, which may write its own.
        end: the end of turn, as the template writes it after an answer ("<|im_end|>" in ChatML).
    """

    tokenizer: Any = field(repr=False)
    system: str | None = None
    end: str = ""
    name: str = "chat"
    adds_bos: bool = False

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, system: str | None = None) -> "ChatTemplate":
        """Find the template's end of turn.

        Raises:
            ConfigError: no chat template, or one that writes nothing after an answer.
            DataError: the template changes answers.
        """
        if tokenizer is None or not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "template chat needs a tokenizer with a chat template (chat_template.jinja beside the tokenizer, or "
                "chat_template in its tokenizer_config.json); give one, or choose vicuna_v1"
            )
        bare = cls(tokenizer, system)
        marker = _marker(0, "question")
        _, found, tail = bare._apply([Turn(HUMAN, "question"), Turn(ASSISTANT, marker)], False).partition(marker)
        if not found:
            raise _rewrites()
        end = _end_of_turn(tail, tokenizer)
        if not end:
            raise ConfigError(
                "the tokenizer's chat template writes nothing after an answer, so a model could not learn to stop; "
                "mend the template or choose another (`version` in the recipe)"
            )
        return cls(tokenizer, system, end)

    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        text = self._apply(turns, generation_prompt)
        answers = [turn.text for turn in turns if turn.role == ASSISTANT]
        if not answers:
            return Rendered(text)
        spans = []
        for index, (start, end) in enumerate(self._locate(turns, answers, text, generation_prompt)):
            if text.startswith(self.end, end):
                end += len(self.end)
            spans.append((self._after_header(turns, index, text, start), end))
        return Rendered(text, tuple(spans))

    def identity(self) -> str | None:
        source = self.tokenizer.get_chat_template()
        # A template that writes the date renders otherwise tomorrow.
        return None if "strftime_now" in source else f"{self!r} {source}"

    def _apply(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        messages = [{"role": _CHAT_ROLES[turn.role], "content": turn.text} for turn in turns]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        # Whatever a template raises (an order of roles, a system message) is for the person who gave the rows.
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(f"the tokenizer's chat template refuses the turns ({roles}): {error}") from error

    def _locate(
        self, turns: Sequence[Turn], answers: list[str], text: str, generation_prompt: bool
    ) -> list[tuple[int, int]]:
        """Where each answer stands in `text`: render markers in their place, then match what lies between them."""
        everything = "".join(turn.text for turn in turns)
        markers = [_marker(index, everything) for index in range(len(answers))]
        queue = iter(markers)
        marked = [Turn(turn.role, next(queue)) if turn.role == ASSISTANT else turn for turn in turns]
        rest = self._apply(marked, generation_prompt)
        between = []
        for marker in markers:
            before, found, rest = rest.partition(marker)
            if not found:
                raise _rewrites()
            between.append(before)
        between.append(rest)
        places = []
        position = 0
        for index, answer in enumerate(answers):
            position += len(between[index])
            end = _match(text, position, answer, between[index + 1], last=index == len(answers) - 1)
            places.append((position, end))
            position = end
        if not text.startswith(between[0]):
            raise _rewrites()
        return places

    def _after_header(self, turns: Sequence[Turn], index: int, text: str, start: int) -> int:
        """Move a span's start back to where generation would begin, if only whitespace lies between."""
        seen = [position for position, turn in enumerate(turns) if turn.role == ASSISTANT][index]
        prompt = self._apply(turns[:seen], True)
        if len(prompt) <= start and text.startswith(prompt) and not text[len(prompt) : start].strip():
            return len(prompt)
        return start


def _marker(index: int, text: str) -> str:
    """A word that isn't in `text`, and that no template has a reason to change."""
    salt = 0
    while (marker := f"ANSWERx{salt}x{index}xEND") in text:
        salt += 1
    return marker


def _match(text: str, position: int, answer: str, following: str, last: bool) -> int:
    """End of the answer at `position`: as it is, or stripped as many templates do, with `following` behind it."""
    for form in (answer, answer.strip(), answer.lstrip(), answer.rstrip()):
        end = position + len(form)
        complete = not last or end + len(following) == len(text)
        if complete and text.startswith(form, position) and text.startswith(following, end):
            return end
    raise _rewrites()


def _rewrites() -> DataError:
    return DataError(
        "the tokenizer's chat template rewrites or drops an answer, so its tokens can't be told from the prompt; "
        "choose another template (`version` in the recipe)"
    )


def _end_of_turn(tail: str, tokenizer: Any) -> str:
    """The end of turn at the start of `tail`: through the first special token, else all but trailing whitespace."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = [(tail.find(token), len(token)) for token in special if token and token in tail]
    if ends:
        position, length = min(ends, key=lambda found: (found[0], -found[1]))
        return tail[: position + length]
    return tail.rstrip()
