"""Answer a LLaVA question file: `python -m llava_mocle.evaluation.model_vqa`, with LLaVA's flags and answer format.

The question file is JSONL. A line is `{"question_id": 0, "image": "a.jpg", "text": "What is this?"}`; `image` may be
missing (a text question) or a list. Answers are appended as they are made. A run that was stopped goes on where it was.
Decoding is greedy unless --temperature or --num_beams says otherwise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import field, field_or, json_records, read_text
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question, check_id
from llava_mocle.evaluation.llava_cli import make_parser, run_program
from llava_mocle.io.jsonl import parse_jsonl
from llava_mocle.io.paths import why_missing


def read_questions(path: str | Path, image_folder: str | Path) -> list[Question]:
    """Questions of a LLaVA question file, JSONL or a JSON list.

    Raises:
        DataError: naming file and line, for a record that isn't JSON, misses `question_id` or `text`, or has a field of
            another kind; or the file is missing, or not UTF-8.
    """
    file = Path(path)
    if (reason := why_missing(file)) is not None:
        raise DataError(f"{str(file)!a:.200}: no such question file ({reason}).")
    questions: list[Question] = []
    for place, record in _records(file):
        questions.append(
            Question(
                question_id=check_id(field(record, "question_id", place, object | None), place),
                prompt=field(record, "text", place, str),
                images=tuple(Path(image_folder) / name for name in _image_names(record, place)),
                route_text=field_or(record, "route_text", place, str | None, None),
                source=place,
            )
        )
    return questions


def _image_names(record: dict[str, Any], place: str) -> list[str]:
    """What `image` names: nothing, where it is missing, null or an empty list."""
    images = record.get("image")
    names = [] if images is None else images if isinstance(images, list) else [images]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(
            f"{place}: 'image' is {images!r:.200}; expected a path below the image folder, or a list of them. Leave it "
            "out for a question without image."
        )
    return names


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
