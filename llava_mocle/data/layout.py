"""What a template adds to a conversation's texts, in bytes, so that a row's size follows from its texts' sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, Template, Turn
from llava_mocle.errors import DataError

# (human, assistant) texts that differ in whatever a template could go by. None has white space at its ends.
_PROBES = (
    ("q", "a"),
    ("7", "Yes."),
    (f'{IMAGE_TOKEN}\n{IMAGE_TOKEN}\nWhat\'s "this"?\n\n  <b>x</b> & {{{{ y }}}}', "猫 C:\\dir\n\n  - [1] `f(x)`\n# é"),
    ("HOW many? " * 40 + "\nHOW", "many. " * 60 + "\n\nend"),
)
_PADDED = ("\n  q \n", " a\n\n ")


_KEYWORDS = ("if", "elif", "else", "and", "or", "not", "in", "is")
# Functions and filters whose texts are no matter of what a message says.
_HARMLESS = ("strip", "lstrip", "rstrip", "trim", "get", "raise_exception", "strftime_now")


@dataclass(frozen=True)
class Layout:
    """A template around a fixed number of turns.

    Attributes:
        head: bytes in front of the first answer's span, the first human text left out.
        total: bytes of the whole, all texts left out.
        strips: whether white space at the ends of a text may be lost.
    """

    head: int
    total: int
    strips: bool


def find_layout(template: Template, turns: int) -> Layout | None:
    """The layout around so many turns; None if it depends on the texts, or such turns can't be rendered.

    Found by rendering probes: what is added must be the same around all of them.
    """
    try:
        first, *others = {_added(template, probe, turns) for probe in _PROBES}
        padded = _added(template, _PADDED, turns)
    except DataError:
        return None
    return None if others else Layout(*first, strips=padded != first)


def _added(template: Template, texts: tuple[str, str], turns: int) -> tuple[int, int]:
    made = [Turn((HUMAN, ASSISTANT)[index % 2], texts[index % 2]) for index in range(turns)]
    rendered = template.render(made)
    head = _bytes(rendered.text[: rendered.assistant_spans[0][0]]) - _bytes(texts[0])
    return head, _bytes(rendered.text) - sum(_bytes(turn.text) for turn in made)


def _bytes(text: str) -> int:
    return len(text.encode())


def watched_texts(tokens: Sequence[tuple[str, str]]) -> set[str]:
    """The texts that a Jinja template may look for in a message, from its lexer's (kind, value) tokens.

    These are its string literals, without those that are only written out (`'<|im_start|>' + role`), name a key
    (`message['content']`) or say what to strip. A literal that is compared as a whole comes in quotes, as it stands in
    JSON when it is a whole value.
    """
    code = [token for token in tokens if token[0] not in ("whitespace", "data", "comment")]
    found = set()
    # What each open bracket belongs to: a function's name, "in", or "" for one that only groups or lists.
    brackets: list[str] = []
    for place, (kind, value) in enumerate(code):
        (kind_before, before), (_, after) = code[max(place - 1, 0)], code[min(place + 1, len(code) - 1)]
        if value in ("(", "["):
            calls = value == "(" and kind_before == "name" and before not in _KEYWORDS
            brackets.append(before if calls or before == "in" else "")
        elif value in (")", "]") and brackets:
            brackets.pop()
        if kind != "string":
            continue
        # As Jinja itself reads a literal.
        text = value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        inside = brackets[-1] if brackets else ""
        listed = before in ("[", ",") and (before, after) != ("[", "]")
        if {"==", "!="} & {before, after} or inside == "in" or (listed and not inside):
            found.add(f'"{text}"')
        elif after in ("in", "not") or (inside and inside not in _HARMLESS):
            found.add(text)
    return {text for text in found if text.strip('"')}
