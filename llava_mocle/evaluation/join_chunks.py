"""Join the parts of a question file: `python -m llava_mocle.evaluation.join_chunks`, after `model_vqa --num-chunks N`.

Part I of N is `<answers file>.part-I-of-N`. Nothing is written until every part has all its answers; the parts stay.
The other flags of `model_vqa` may stand there too and play no part.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.errors import UserError
from llava_mocle.evaluation.answering.parts import check_part, join_parts
from llava_mocle.evaluation.model_vqa import read_questions
from llava_mocle.io.paths import user_path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the answers are joined, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(
        prog="python -m llava_mocle.evaluation.join_chunks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--answers-file", type=user_path, required=True)
    parser.add_argument("--question-file", type=user_path, required=True)
    parser.add_argument("--image-folder", type=user_path, default="")
    parser.add_argument("--num-chunks", type=int, required=True)
    parser.add_argument("--limit", type=int, help="only the first N questions were asked")
    parser.add_argument("--overwrite", action="store_true", help="replace another model's answers")
    args, _ = parser.parse_known_args(argv)
    count = args.num_chunks
    files = [Path(f"{args.answers_file}.part-{index}-of-{count}") for index in range(count)]
    try:
        check_part(count, 0)
        questions = read_questions(args.question_file, args.image_folder)[: args.limit]
        answers = join_parts(Path(args.answers_file), files, questions, replace=args.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"joined {count} parts, {len(answers)} answers: {args.answers_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
