"""Join the answers of chunks: `python -m llava_mocle.evaluation.join_chunks`, after `model_vqa --num-chunks N`.

Chunk I of N is `<answers file>.part-I-of-N`. The answers are joined in the questions' order when all are there.
The other flags of `model_vqa` may stand there too and play no part.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.answering.file import AnswerRun, read_answers
from llava_mocle.evaluation.answering.run import Question, answer_keys, split_chunks
from llava_mocle.evaluation.model_vqa import read_questions
from llava_mocle.io.files import write_text

_SETTINGS = ("generation", "predictor")


def join_chunks(answers_file: str | Path, num_chunks: int, questions: Sequence[Question], *, overwrite: bool) -> int:
    """Write `answers_file` from its parts, which stay; the number of answers.

    Raises:
        DataError: a part is missing or unfinished, or answers other questions, or of another model or other settings
            than the first; or `answers_file` holds another model's answers, or with other settings (without
            `overwrite`).
    """
    whole, run, joined = Path(answers_file), None, []
    for index in range(num_chunks):
        part, path = split_chunks(questions, num_chunks, index), Path(f"{whole}.part-{index}-of-{num_chunks}")
        if not path.exists():
            raise DataError(f"{path}: is not there, so not every part is done; run it, then join again.")
        records = read_answers(path)
        if records and run is None:
            settings = {name: records[0]["metadata"].get(name, "") for name in _SETTINGS}
            run = AnswerRun(records[0]["model_id"], settings)
        if run is not None:
            run.check(path, records)
            run.check_prefix(path, records, answer_keys(part))
        if len(records) != len(part):
            raise DataError(
                f"{path}: {len(records)} answers to {len(part)} questions; finish this part, then join again."
            )
        joined += records
    if run is not None and whole.exists() and not overwrite:
        run.check(whole, read_answers(whole))
    write_text(whole, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in joined))
    return len(joined)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all are joined, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(
        prog="python -m llava_mocle.evaluation.join_chunks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--answers-file", required=True)
    parser.add_argument("--question-file", required=True)
    parser.add_argument("--image-folder", default="")
    parser.add_argument("--num-chunks", type=int, required=True)
    parser.add_argument("--limit", type=int, help="only the first N questions were asked")
    parser.add_argument("--overwrite", action="store_true", help="replace another model's answers")
    args, _ = parser.parse_known_args(argv)
    try:
        questions = read_questions(args.question_file, args.image_folder)[: args.limit]
        count = join_chunks(args.answers_file, args.num_chunks, questions, overwrite=args.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"joined {args.num_chunks} parts, {count} answers: {args.answers_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
