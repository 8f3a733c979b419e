"""Answer a ScienceQA file of LLaVA's: `python -m llava_mocle.evaluation.model_vqa_science`, with LLaVA's flags.

The question file is a JSON list in LLaVA's row format, of which the first human turn is asked:

    {"id": "5", "image": "5/image.png", "conversations": [{"from": "human", "value": "<image>\\nWhich ...?"}, ...]}
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.llava_cli import add_single_prompt_flag, make_parser, run_program
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER
from llava_mocle.evaluation.tasks.held_out import row_question
from llava_mocle.evaluation.tasks.shared.official_files import json_records


def read_questions(args: argparse.Namespace) -> list[Question]:
    """The questions of a list of rows.

    Raises:
        DataError: no such file, not a JSON list, or a row without `id` or human turn.
    """
    path = Path(args.question_file)
    suffix = OPTION_LETTER if args.single_pred_prompt else ""
    questions = []
    for place, row in json_records(path):
        asked = row_question(row, args.image_folder, place)
        # LLaVA's scorer counts an answer among those with images where its prompt says so.
        mark = f"{IMAGE_TOKEN}\n" * len(asked.images)
        prompt = mark + asked.prompt.replace(IMAGE_TOKEN, "").strip() + suffix
        questions.append(Question(asked.question_id, prompt, asked.images, asked.route_text, source=place))
    return questions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    parser = make_parser("model_vqa_science", __doc__)
    add_single_prompt_flag(parser)
    return run_program(parser, read_questions, argv)


if __name__ == "__main__":
    sys.exit(main())
