"""Answer an MMBench table: `python -m llava_mocle.evaluation.model_vqa_mmbench`, with LLaVA's flags.

The question file is MMBench's TSV. Its base64 images are unpacked into a folder beside it. With --all-rounds each
question is asked once for every rotation of its options. The answer of round r > 0 then has the id "<index>-<r>", since
every answer needs an id of its own. Once all answers are there, they get LLaVA's further fields (round_id, options,
option_char).
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import field, number_of, places, read_table
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.question import Question, check_id
from llava_mocle.evaluation.llava_cli import add_single_prompt_flag, make_parser, run_program
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER
from llava_mocle.evaluation.tasks.shared.base64_images import unpack_image
from llava_mocle.io.jsonl import write_jsonl

LETTERS = "ABCD"
SUFFIXES = {"en": OPTION_LETTER, "cn": "\n请直接回答选项字母。"}
_EMPTY = ("", "nan", "none")


@dataclass(frozen=True)
class RoundQuestion(Question):
    """A question in one of its rounds.

    Attributes:
        round_id: how far its options are rotated.
        options: their texts, as they stand in this round.
    """

    round_id: int = 0
    options: tuple[str, ...] = ()

    def complete(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The answer with the fields of its round, in LLaVA's order."""
        letters = LETTERS[: len(self.options)]
        turned = letters[self.round_id :] + letters[: self.round_id]
        fields = {"round_id": self.round_id, "options": list(self.options), "option_char": list(turned)}
        order = ("question_id", "round_id", "prompt", "text", "options", "option_char")
        whole = {**answer, **fields}
        return {key: whole[key] for key in order} | whole


def read_questions(args: argparse.Namespace) -> list[RoundQuestion]:
    """The questions of the table, each in one round or in all. Options end at the first that is missing, as in LLaVA.

    Raises:
        DataError: no such file, a column is missing, an index or a question is blank, or an image is not base64.
    """
    path = Path(args.question_file)
    suffix = SUFFIXES[args.lang] if args.single_pred_prompt else ""
    questions = []
    for place, row in places(path, read_table(path)):
        index = str(check_id(field(row, "index", place).strip(), place, "index"))
        options = tuple(takewhile(lambda text: not _is_empty(text), (row.get(letter, "") for letter in LETTERS)))
        asked, hint = field(row, "question", place), row.get("hint")
        if _is_empty(asked):
            raise DataError(f"{place}: field 'question' is {asked!r}, expected a question; fetch the file again.")
        image = unpack_image(field(row, "image", place), path.with_suffix("") / f"{_file_name(index)}.jpg", place)
        for turn in range(max(1, len(options)) if args.all_rounds else 1):
            moved = options[turn:] + options[:turn]
            lines = [] if _is_empty(hint) else [hint]
            lines += [asked, *(f"{letter}. {text}" for letter, text in zip(LETTERS, moved, strict=False))]
            # LLaVA's converter compares the id with the table's index, a number.
            number = number_of(index)
            name = f"{index}-{turn}" if turn else index if number is None else number
            prompt = "\n".join(lines) + suffix
            questions.append(RoundQuestion(name, prompt, (image,), source=place, round_id=turn, options=moved))
    return questions


def complete_answers(answers_file: str | Path, questions: Sequence[RoundQuestion]) -> None:
    """Give the answers in a file the fields of their rounds; the file is replaced as a whole, and can be continued."""
    rounds = {question.question_id: question for question in questions}
    answers = [
        rounds[answer["question_id"]].complete(answer) if answer["question_id"] in rounds else answer
        for answer in read_answers(answers_file)
    ]
    write_jsonl(answers_file, answers)


def _file_name(index: str) -> str:
    """The index, or a digest of one that is no file name."""
    return index if re.fullmatch(r"[\w-]{1,100}", index) else hashlib.sha256(index.encode()).hexdigest()[:16]


def _is_empty(text: str | None) -> bool:
    return text is None or text.strip().lower() in _EMPTY


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    parser = make_parser("model_vqa_mmbench", __doc__)
    add_single_prompt_flag(parser)
    parser.add_argument("--all-rounds", action="store_true", help="ask every rotation of the options")
    parser.add_argument("--lang", choices=sorted(SUFFIXES), default="en")
    return run_program(parser, read_questions, argv, complete_answers)


if __name__ == "__main__":
    sys.exit(main())
