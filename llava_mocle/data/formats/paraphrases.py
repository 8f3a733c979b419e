"""One question in the words of every template of its kind (the paper's Table 10)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from llava_mocle.data.formats.instruction_templates import ANSWER, QUESTION, TEMPLATES, answer_prompt, question_prompt

CAPTION, ASKED, ANSWERED = "CAP", "VQA", "VQG"
_OCR = re.compile(r"(OCR tokens: .*\. )(.+)", re.DOTALL)


@dataclass(frozen=True)
class Content:
    """What an instruction asks, apart from the words of its template.

    Attributes:
        kind: "CAP" (a caption), "VQA" (a question's answer) or "VQG" (a question that has an answer).
        text: the OCR tokens in front of a request for a caption; the question; or the answer.
    """

    kind: str
    text: str

    def paraphrases(self) -> list[str]:
        """The same in every template of its kind, in the order of Table 10."""
        fill: Callable[[str, str], str] = {
            CAPTION: lambda template, text: text + template,
            ASKED: question_prompt,
            ANSWERED: answer_prompt,
        }[self.kind]
        return [fill(template, self.text) for template in TEMPLATES[self.kind]]


def content_of(instruction: str) -> Content | None:
    """What an instruction asks; None for one that is in no template and asks no question.

    Of several templates that it could be in, the one with the most words of its own counts. So "Q: Where? A:" asks
    "Where?". An instruction in no template is a question if its first line has a question mark.

    >>> content_of("Q: Where is the cat? A:")
    Content(kind='VQA', text='Where is the cat?')
    >>> content_of("A photo of")
    Content(kind='CAP', text='')
    """
    read = _OCR.fullmatch(instruction)
    tokens, request = read.groups() if read else ("", instruction)
    if request in TEMPLATES[CAPTION]:
        return Content(CAPTION, tokens)
    for kind, pattern in _patterns():
        if (match := pattern.fullmatch(instruction)) is not None:
            return Content(kind, match[1])
    return Content(ASKED, instruction) if "?" in instruction.partition("\n")[0] else None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """(kind, pattern) of every template with a hole and words around it, the one with the most words first."""
    found = []
    for kind, hole in ((ASKED, QUESTION), (ANSWERED, ANSWER)):
        for template in TEMPLATES[kind]:
            before, after = template.split(hole)
            if before or after:
                pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}", re.DOTALL)
                found.append((len(before) + len(after), kind, pattern))
    return [(kind, pattern) for _, kind, pattern in sorted(found, key=lambda item: -item[0])]
