"""Answering questions alone, together with other processes, or as one of several chunks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.parts import (
    Shard,
    content_name,
    join_if_finished,
    join_own,
    join_shards,
    remove_shards,
    shared_start,
)
from llava_mocle.evaluation.answering.run import (
    GenerationSettings,
    Question,
    answer_keys,
    answer_questions,
    answer_run,
    split_chunks,
)

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor


def answer_shared(
    predictor: "Predictor",
    questions: Sequence[Question],
    answers_file: str | Path,
    shard: Shard,
    *,
    batch_size: int = 8,
    settings: GenerationSettings | None = None,
    overwrite: bool = False,
    description: str = "answers",
) -> list[dict[str, Any]] | None:
    """`answer_questions`, with this process answering its shard alone.

    What `answers_file` holds already is kept, and the rest shared out; a stopped run goes on with as many processes.

    Returns:
        The answer records of these questions, in their order; None where another process joins them.

    Raises:
        DataError: as `answer_questions`, on this or another process; or shards that do not belong together.
    """
    settings, whole = settings or GenerationSettings(), Path(answers_file)
    run, keys = answer_run(predictor, settings), answer_keys(questions)
    options: dict[str, Any] = {"batch_size": batch_size, "settings": settings, "description": description}

    def prepare() -> None:
        if not shard.joins:
            if overwrite:
                remove_shards(whole, shard.index)  # the whole file stays until the new parts are joined
        elif overwrite:
            remove_shards(whole)
            whole.unlink(missing_ok=True)
        elif shard.count == 1:
            join_shards(whole, keys, run)
        else:
            join_if_finished(whole, keys, run, shard.count)

    def answer_part() -> int:
        start, total = 0, len(questions)
        anew = shard.answers_file(whole, 0, total, content_name(whole))
        if not overwrite and not anew.exists():  # otherwise the file whose answers are replaced does not matter
            there = read_answers(whole) if whole.exists() else []
            run.check(whole, there)
            start = shared_start(whole, run.check_prefix(whole, there, keys), total, shard.count)
            anew = shard.answers_file(whole, start, total)
        if start < total:
            answer_questions(predictor, split_chunks(questions[start:], shard.count, shard.index), anew, **options)
        return start

    shard.together(prepare)
    if shard.count > 1 or not shard.joins:
        start = shard.together(answer_part)
        if not shard.joins:
            return None
        if start < len(questions):
            join_own(whole, keys, run, shard.count, start)
    return answer_questions(predictor, questions, whole, **options)
