"""Answer a LLaVA question file: `python -m llava_mocle.evaluation.model_vqa`, with LLaVA's flags and answer format.

The question file is JSONL, a line being `{"question_id": 0, "image": "a.jpg", "text": "What is this?"}`; `image` may be
missing (a text question) or a list. Answers are appended as they are made, and a run that was stopped continues where
it was. Decoding is greedy unless --temperature or --num_beams says otherwise.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.llava_cli import make_parser, run_program
from llava_mocle.evaluation.tasks.shared.official_files import read_text


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
        for field, kinds in (("question_id", (str, int)), ("text", (str,))):
            value = record.get(field)
            if not isinstance(value, kinds) or isinstance(value, bool):
                found = "is missing" if field not in record else f"is {value!r}"
                raise DataError(
                    f'{place}: {field!r} {found}; a question is {{"question_id": ..., "image": ..., "text": "..."}}.'
                )
        images = record.get("image") or []
        names = [images] if isinstance(images, str) else images
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(
                f"{place}: 'image' is {images!r}; expected a path below the image folder, or a list of them."
            )
        questions.append(
            Question(
                question_id=record["question_id"],
                prompt=record["text"],
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
        try:
            listed = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {error.lineno}: not JSON ({error.msg}).") from error
        pairs = [(f"{file}, record {number}", record) for number, record in enumerate(listed)]
    else:
        pairs = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                pairs.append((f"{file}, line {number}", _parse_line(line, f"{file}, line {number}")))
    for place, record in pairs:
        if not isinstance(record, dict):
            raise DataError(f"{place}: {record!r} is not a question; expected a JSON object.")
    return pairs


def _parse_line(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno}).") from error


if __name__ == "__main__":
    sys.exit(main())
