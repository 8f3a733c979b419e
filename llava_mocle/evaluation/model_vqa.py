"""Answer a LLaVA question file: `python -m llava_mocle.evaluation.model_vqa`, with LLaVA's flags and answer format.

The question file is JSONL, a line being `{"question_id": 0, "image": "a.jpg", "text": "What is this?"}`; `image` may be
missing (a text question) or a list. Answers are appended as they are made, and a run that was stopped continues where
it was. Decoding is greedy unless --temperature or --num_beams says otherwise.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.runner import GenerationSettings, Question, answer_questions, split_chunks


def read_questions(path: str | Path, image_folder: str | Path) -> list[Question]:
    """Questions of a LLaVA question file, JSONL or a JSON list.

    Raises:
        DataError: naming file and line, for a record that isn't JSON or misses `question_id` or `text`.
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


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """LLaVA's flags, and ours: --batch-size, --limit, --overwrite, --device, --dtype."""
    parser = argparse.ArgumentParser(
        prog="python -m llava_mocle.evaluation.model_vqa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model-path", required=True, help="a trained checkpoint, a stage-1 folder or a base folder")
    parser.add_argument("--model-base", help="base folder, if the one named in the checkpoint has moved")
    parser.add_argument("--vision-tower", help="for an original LLaVA folder: its CLIP tower, if it has moved")
    parser.add_argument("--encoder", help="the cluster model's sentence encoder, if it has moved")
    parser.add_argument("--image-folder", default="", help="folder that the questions' image paths start from")
    parser.add_argument("--question-file", required=True)
    parser.add_argument("--answers-file", required=True)
    parser.add_argument("--conv-mode", help="prompt template; default: the one that the model was trained with")
    parser.add_argument("--num-chunks", type=int, default=1)
    parser.add_argument("--chunk-idx", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy; otherwise sample")
    parser.add_argument("--top_p", type=float)
    parser.add_argument("--num_beams", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--limit", type=int, help="only the first N questions")
    parser.add_argument("--overwrite", action="store_true", help="start the answers file anew")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every question is answered, 2 for a mistake in the input."""
    args = parse_arguments(argv)
    try:
        run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Answer the questions of `args` and return the answer records."""
    questions = read_questions(args.question_file, args.image_folder)[: args.limit]
    chunk = split_chunks(questions, args.num_chunks, args.chunk_idx)
    from llava_mocle.inference import Predictor

    predictor = Predictor.from_pretrained(
        args.model_path,
        device=args.device,
        dtype=args.dtype,
        base=args.model_base,
        template=args.conv_mode,
        vision_tower=args.vision_tower,
        encoder=args.encoder,
    )
    settings = GenerationSettings(
        max_new_tokens=args.max_new_tokens,
        num_beams=args.num_beams,
        temperature=args.temperature,
        top_p=args.top_p,
    )
    return answer_questions(
        predictor,
        chunk,
        args.answers_file,
        batch_size=args.batch_size,
        settings=settings,
        overwrite=args.overwrite,
        description=Path(args.question_file).name,
    )


def _records(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, record) of every record of a JSON list or JSONL file."""
    text = file.read_text(encoding="utf-8")
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
