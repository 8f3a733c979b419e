"""Several processes that answer the same questions: who answers what, who waits for whom, and who joins the parts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.evaluation.answering.ahead import ahead_file
from llava_mocle.evaluation.answering.parts import (
    Division,
    check_part,
    content_name,
    divide,
    join_earlier_parts,
    part_of,
    remove_parts,
)
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.answering.run import answer_questions, answer_run

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

T = TypeVar("T")


class PartnerLost(UserError):
    """A process that answers together with this one has ended early."""


def describe_failure(error: Exception) -> str:
    """A user error's message; of any other, its kind too."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _alone(error: str | None) -> list[str]:
    return [error] if error else []


@dataclass(frozen=True)
class Part:
    """Which part of the questions this process answers. There are three cases:

    - alone: it answers everything, `Part()`;
    - one of several processes that torchrun started: each answers a part, and the first one joins and scores;
    - one part that the user started by hand (--num-chunks): nobody waits, and a later run alone joins and scores.

    Attributes:
        index, count: it answers part `index` of `count`.
        joins: whether it also joins the parts and scores them.
        exchange: tells the partners (the processes that run together with this one) what went wrong here (None:
            nothing), waits for their messages, and returns all that are not None.
    """

    index: int = 0
    count: int = 1
    joins: bool = True
    exchange: Callable[[str | None], list[str]] = _alone

    @property
    def has_partners(self) -> bool:
        """Whether other processes run together with this one."""
        return self.exchange is not _alone

    def together(self, work: Callable[[], T]) -> T:
        """Do `work`, and wait until the partners have done theirs. If one fails, every partner raises an error.

        Raises:
            Exception: what `work` raised here.
            DataError: it failed on a partner.
            PartnerLost: a partner is gone.
        """
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        try:
            messages = self.exchange(describe_failure(error) if error else None)
        except RuntimeError as lost:
            raise PartnerLost(
                f"another process of this evaluation is gone ({lost}); what it said itself, if anything, stands above. "
                "The same command goes on and keeps the answers so far."
            ) from error or lost
        if error:
            raise error
        if messages:
            raise DataError(messages[0])
        return result


def part_of_this_process(num_chunks: int | None = None, chunk_idx: int | None = None) -> Part:
    """The part that --num-chunks and --chunk-idx name. Without these flags: this rank's part under torchrun, else all.

    Raises:
        ConfigError: flags that do not go together, an index that is out of range, or several tasks of srun that do not
            know of each other.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if num_chunks is not None:
        if world_size > 1:
            raise ConfigError("--num-chunks under torchrun: its processes divide the questions by themselves.")
        check_part(num_chunks, chunk_idx)
        return Part(chunk_idx or 0, num_chunks, joins=False)
    if chunk_idx is not None:
        raise ConfigError("--chunk-idx without --num-chunks; give both, or neither to join and score.")
    if world_size > 1:
        _exchange(None)  # the processes meet, so that each notices at the next exchange if another one has died
        return Part(rank, world_size, joins=rank == 0, exchange=_exchange)
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "RANK" not in os.environ:  # each would answer everything
        raise ConfigError(
            f"srun started {tasks} tasks, which do not know of each other. Put scripts/slurm/rank.sh before the "
            "command and set MASTER_ADDR and MASTER_PORT; or start one task with torchrun; or submit "
            "scripts/slurm/eval.sbatch."
        )
    return Part()


def _exchange(error: str | None) -> list[str]:
    from datetime import timedelta

    from accelerate import PartialState
    from accelerate.utils import gather_object

    # One part may wait days for another. Only short texts are exchanged, for which gloo (cpu=True) is enough.
    PartialState(cpu=True, timeout=timedelta(days=2))
    return [message for message in gather_object([error]) if message]


def answer_together(
    predictor: "Predictor",
    questions: Sequence[Question],
    answers_file: str | Path,
    part: Part,
    *,
    batch_size: int = 8,
    settings: GenerationSettings | None = None,
    overwrite: bool = False,
    skip_unaskable: bool = False,
    description: str = "answers",
) -> list[dict[str, Any]] | None:
    """Answer this process's part of the questions; the process that joins then puts all parts together.

    Answers that `answers_file` holds already are kept. A run that was stopped must go on with as many processes as it
    had.

    Args:
        overwrite: remove the answers that are there. A part that the user started by hand removes only its own file;
            `answers_file` then stays until the new parts are joined.
        skip_unaskable: see `answer_questions`.

    Returns:
        The answers to these questions, in their order; None where another process joins them.

    Raises:
        DataError: as `answer_questions`, here or in a partner; or parts that do not belong together.
    """
    settings, whole = settings or GenerationSettings(), Path(answers_file)
    run = answer_run(predictor, settings)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "settings": settings,
        "skip_unaskable": skip_unaskable,
        "description": description,
    }

    def prepare() -> None:
        if overwrite:
            remove_parts(whole, None if part.joins else part.index)
        if overwrite and part.joins:
            for file in (whole, ahead_file(whole)):
                file.unlink(missing_ok=True)
        elif part.joins:
            join_earlier_parts(whole, questions, run, part.count)

    def answer_part() -> Division:
        if overwrite:
            division = Division(whole, part.count, 0, len(questions), content_name(whole))
        else:
            division = divide(whole, questions, run, part.count, part.index)
        if division.start < len(questions):
            own = part_of(questions[division.start :], part.count, part.index)
            begun_alone = [] if overwrite or division.replaces else [whole]
            answer_questions(predictor, own, division.file(part.index), others=begun_alone, **options)
        return division

    part.together(prepare)
    if part.count > 1 or not part.joins:
        division = part.together(answer_part)
        if not part.joins:
            return None
        if division.start < len(questions):
            return division.join(questions, run)
    return answer_questions(predictor, questions, whole, **options)
