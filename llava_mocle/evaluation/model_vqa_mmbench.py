"""Answer an MMBench table: `python -m llava_mocle.evaluation.model_vqa_mmbench`, with LLaVA's flags.

The question file is MMBench's TSV with base64 images, unpacked into a folder beside it. With --all-rounds each
question is asked once for every rotation of its options; the answer of round r > 0 has the id "<index>-<r>", as every
answer of a file has an id of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.evaluation.llava_cli import add_single_prompt_flag, make_parser, run_program
from llava_mocle.evaluation.official import field, places, read_table
from llava_mocle.evaluation.runner import Question
from llava_mocle.evaluation.task import OPTION_LETTER
from llava_mocle.evaluation.tasks.embedded_images import unpack_image

LETTERS = "ABCD"
SUFFIXES = {"en": OPTION_LETTER, "cn": "\n请直接回答选项字母。"}
_EMPTY = ("", "nan", "none")


def read_questions(args: argparse.Namespace) -> list[Question]:
    """The questions of the table, each in one round or in all.

    Raises:
        DataError: no such file, a column is missing, or an image is not base64.
    """
    path = Path(args.question_file)
    suffix = SUFFIXES[args.lang] if args.single_pred_prompt else ""
    questions = []
    for place, row in places(path, read_table(path)):
        index = field(row, "index", place)
        options = [text for text in (row.get(letter) for letter in LETTERS) if not _is_empty(text)]
        asked, hint = field(row, "question", place), row.get("hint")
        image = unpack_image(field(row, "image", place), path.with_suffix("") / f"{index}.jpg", place)
        for turn in range(len(options) if args.all_rounds else 1):
            moved = options[turn:] + options[:turn]
            lines = [] if _is_empty(hint) else [hint]
            lines += [asked, *(f"{letter}. {text}" for letter, text in zip(LETTERS, moved, strict=False))]
            name = f"{index}-{turn}" if turn else index
            questions.append(Question(name, "\n".join(lines) + suffix, (image,), source=place))
    return questions


def _is_empty(text: str | None) -> bool:
    return text is None or text.strip().lower() in _EMPTY


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    parser = make_parser("model_vqa_mmbench", __doc__)
    add_single_prompt_flag(parser)
    parser.add_argument("--all-rounds", action="store_true", help="ask every rotation of the options")
    parser.add_argument("--lang", choices=sorted(SUFFIXES), default="en")
    return run_program(parser, read_questions, argv)


if __name__ == "__main__":
    sys.exit(main())
