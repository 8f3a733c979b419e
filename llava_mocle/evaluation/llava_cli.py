"""What LLaVA's four evaluation programs have in common here: their flags, and answering their questions."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from llava_mocle.errors import ConfigError, UserError
from llava_mocle.evaluation.answering.parts import part_of
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.answering.run import answer_questions
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER
from llava_mocle.inference.flags import add_penalty_flags, add_predictor_flags, add_skip_flag, predictor_options
from llava_mocle.io.ctrl_c import until_ctrl_c
from llava_mocle.io.libraries import quiet_libraries
from llava_mocle.io.paths import unusable_paths_named, user_path

Asked = TypeVar("Asked", bound=Question)


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """LLaVA's flags and ours."""
    parser = argparse.ArgumentParser(
        prog=f"python -m llava_mocle.evaluation.{program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model-path", type=user_path, required=True, help="a trained checkpoint, a stage-1 folder or a base folder"
    )
    parser.add_argument(
        "--model-base", type=user_path, help="base folder, if the one named in the checkpoint has moved"
    )
    parser.add_argument(
        "--image-folder", type=user_path, default="", help="folder that the questions' image paths start from"
    )
    parser.add_argument("--question-file", type=user_path, required=True)
    parser.add_argument("--answers-file", type=user_path, required=True)
    parser.add_argument("--conv-mode", help="prompt template; default: the one that the model was trained with")
    parser.add_argument("--num-chunks", type=int, default=1, help="divide the questions into so many parts")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which part to answer, from 0")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy; otherwise sample")
    parser.add_argument("--top_p", type=float)
    parser.add_argument("--num_beams", type=int, default=1)
    add_penalty_flags(parser, "_")
    parser.add_argument("--max_new_tokens", type=int, default=1024, help="longest answer (LLaVA's default)")
    parser.add_argument("--batch-size", type=int, default=8, help="of one cluster and of like lengths where possible")
    parser.add_argument("--limit", type=int, help="only the first N questions")
    add_skip_flag(parser)
    parser.add_argument("--overwrite", action="store_true", help="start the answers file anew")
    add_predictor_flags(parser)
    return parser


def add_single_prompt_flag(parser: argparse.ArgumentParser) -> None:
    """LLaVA's flag of the multiple-choice programs."""
    parser.add_argument("--single-pred-prompt", action="store_true", help=f"end every prompt with {OPTION_LETTER!r}")


def run_program(
    parser: argparse.ArgumentParser,
    read: Callable[[argparse.Namespace], list[Asked]],
    argv: Sequence[str] | None,
    finish: Callable[[str, list[Asked]], None] | None = None,
) -> int:
    """Parse the flags, read the questions, answer them.

    Args:
        finish: called last, with the answers file and the questions.

    Returns:
        0 when every question is answered, 2 for a mistake in the input, 130 after Ctrl-C.
    """
    args = parser.parse_args(argv)
    quiet_libraries()
    return until_ctrl_c(
        lambda: _run(args, read, finish), "the answers so far are kept; the same command goes on with them"
    )


def _run(
    args: argparse.Namespace,
    read: Callable[[argparse.Namespace], list[Asked]],
    finish: Callable[[str, list[Asked]], None] | None,
) -> int:
    try:
        for flag in ("limit", "batch_size"):
            value = getattr(args, flag)
            if value is not None and value < 1:
                raise ConfigError(f"--{flag.replace('_', '-')} {value}: must be at least 1.")
        with unusable_paths_named():
            questions = read(args)
            _answer(args, part_of(questions[: args.limit], args.num_chunks, args.chunk_idx))
            if finish is not None:
                finish(args.answers_file, questions)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _answer(args: argparse.Namespace, questions: Sequence[Question]) -> None:
    from llava_mocle.inference import Predictor

    predictor = Predictor.from_pretrained(
        args.model_path, base=args.model_base, template=args.conv_mode, **predictor_options(args)
    )
    settings = GenerationSettings(
        args.max_new_tokens,
        args.num_beams,
        args.temperature,
        args.top_p,
        args.length_penalty,
        args.repetition_penalty,
    )
    answer_questions(
        predictor,
        questions,
        args.answers_file,
        batch_size=args.batch_size,
        settings=settings,
        overwrite=args.overwrite,
        skip_unaskable=args.skip_unaskable,
        description=Path(args.question_file).name,
    )
