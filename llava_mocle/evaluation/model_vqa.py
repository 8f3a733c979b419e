"""Answer a LLaVA question file: `python -m llava_mocle.evaluation.model_vqa`, with LLaVA's flags and answer format.

The question file is JSONL. A line is `{"question_id": 0, "image": "a.jpg", "text": "What is this?"}`; `image` may be
missing (a text question) or a list. Answers are appended as they are made. A run that was stopped goes on where it was.
Decoding is greedy unless --temperature or --num_beams says otherwise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.llava_cli import make_parser, run_program
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, json_records, read_text
from llava_mocle.io.jsonl import parse_jsonl


def read_questions(path: str | Path, image_folder: str | Path) -> list[Question]:
    """Questions of a LLaVA question file, JSONL or a JSON list.

    Raises:
        DataError: naming file and line, for a record that isn't JSON or misses `question_id` or `text`; or the file is
            missing, or not UTF-8.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such question file.")
    questions = []
    for place, record in _records(file):
        images = record.get("image") or []
        names = [images] if isinstance(images, str) else images
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{place}: 'image' is {images!r}; expected a path below the image folder, or a list of them."
            )
        questions.append(
            Question(
                question_id=field(record, "question_id", place, ID),
                prompt=field(record, "text", place, str),
                images=tuple(Path(image_folder) / name for name in names),
                route_text=record.get("route_text"),
                source=place,
            )
        )
    return questions


def main(
    argv: Sequence[str] | None = None,
    program: str = "model_vqa",
    description: str | None = __doc__,
    max_new_tokens: int = 1024,
) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    parser = make_parser(program, description)
    parser.set_defaults(max_new_tokens=max_new_tokens)
    return run_program(parser, lambda args: read_questions(args.question_file, args.image_folder), argv)


def _records(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, record) of every record of a JSON list or JSONL file."""
    text = read_text(file)
    if text.lstrip().startswith("["):
        return list(json_records(file))
    pairs = list(parse_jsonl(text, file, "a question file has one JSON object a line."))
    for place, record in pairs:
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {record!r:.60}, expected an object.")
    return pairs


if __name__ == "__main__":
    sys.exit(main())
