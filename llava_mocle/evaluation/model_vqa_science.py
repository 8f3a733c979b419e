"""Answer a ScienceQA file of LLaVA's: `python -m llava_mocle.evaluation.model_vqa_science`, with LLaVA's flags.

The question file is a JSON list in LLaVA's row format, of which the first human turn is asked, with the images that it
shows (all of the row's where no turn has an `<image>` mark). No answer needs to follow:

    {"id": "5", "image": "5/image.png", "conversations": [{"from": "human", "value": "<image>\\nWhich ...?"}, ...]}
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import HUMAN, IMAGE_TOKEN, row_images, shown_images, written_turns
from llava_mocle.data.official_files import json_records
from llava_mocle.data.row_problems import first_problem
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.llava_cli import add_single_prompt_flag, make_parser, run_program
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER
from llava_mocle.evaluation.tasks.held_out import require_id

# Problems of a row that keep it from being trained on, not from being asked.
_READABLE = ("empty answer", "image count")


def read_questions(args: argparse.Namespace) -> list[Question]:
    """The questions of a list of rows.

    Raises:
        DataError: no such file, not a JSON list, or a row without `id` or human turn, or one whose images disagree with
            its marks.
    """
    path = Path(args.question_file)
    suffix = OPTION_LETTER if args.single_pred_prompt else ""
    questions = []
    for number, (place, row) in enumerate(json_records(path)):
        require_id(row, place)
        asked, names = _asked(row, number, path)
        # LLaVA's scorer counts an answer among those with images where its prompt says so.
        prompt = f"{IMAGE_TOKEN}\n" * len(names) + asked.replace(IMAGE_TOKEN, "").strip() + suffix
        images = tuple(Path(args.image_folder, name) for name in names)
        questions.append(Question(row["id"], prompt, images, row.get("route_text"), source=place))
    return questions


def _asked(row: dict[str, Any], number: int, path: Path) -> tuple[str, list[str]]:
    """The first question of a row, and the names of the images that it shows."""
    if (problem := first_problem(row, number, _READABLE)) is not None:
        raise DataError(f"{path}: {problem.describe()}")
    turns = written_turns(row)
    if not turns or turns[0].role != HUMAN:
        raise DataError(f"{path}: row {number} (id {row['id']!r}): no human turn in 'conversations', so no question.")
    if not any(IMAGE_TOKEN in turn.text for turn in turns):
        return turns[0].text, row_images(row)
    try:
        return turns[0].text, shown_images(row)[0]
    except DataError as error:
        raise DataError(f"{path}: row {number} (id {row['id']!r}): {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    parser = make_parser("model_vqa_science", __doc__)
    add_single_prompt_flag(parser)
    return run_program(parser, read_questions, argv)


if __name__ == "__main__":
    sys.exit(main())
