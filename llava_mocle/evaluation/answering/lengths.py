"""Questions that are too long for the model are found before the first answer, not when they are reached."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question, name_of, request_of
from llava_mocle.io.progress import progress

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

logger = logging.getLogger(__name__)

# A token stands for at least one byte of the text, and normalising a text makes it at most three times as long.
_TOKENS_PER_BYTE = 3
_SHOWN = 10


def check_lengths(
    predictor: "Predictor", questions: Sequence[Question], max_new_tokens: int = 0, *, skip: bool = False
) -> None:
    """Refuse questions that leave no room for an answer, and warn of those that leave less than `max_new_tokens`.

    Only questions that may be long are tokenized: about a thousand a second.

    Args:
        max_new_tokens: 0: nobody is warned.
        skip: too long ones are let through; they will be skipped.

    Raises:
        DataError: names the questions that are too long, and their lengths in tokens.
    """
    limit = predictor.context_length
    if limit is None:
        return
    shortest: dict[Any, int] = {}  # images -> tokens of a question that says next to nothing
    lengths: list[tuple[Question, int]] = []
    with progress(len(questions), "lengths", "question", patience=2) as bar:
        for question in questions:
            bar.update()
            images = tuple(question.images) if predictor.sees_sizes else len(question.images)
            if images not in shortest:
                shortest[images] = predictor.length(request_of(Question(0, "x", question.images)))
            text = len(question.prompt.encode()) + max((len(text.encode()) for text in question.candidates), default=0)
            room = 0 if question.candidates else max_new_tokens
            if shortest[images] + _TOKENS_PER_BYTE * text + room > limit:
                length = predictor.length(request_of(question), question.candidates)
                if length + room > limit or length >= limit:
                    lengths.append((question, length))
    too_long = [(question, length) for question, length in lengths if length >= limit]
    if too_long and not skip:
        raise DataError(
            f"{_listed(too_long)}: too long, as the model reads at most {limit} tokens with the images and the answer "
            f"({len(too_long)} of {len(questions)} questions). Shorten them or give fewer images; or pass "
            "--skip-unaskable, which gives them an empty answer."
        )
    tight = [(question, length) for question, length in lengths if length < limit]
    if tight:
        logger.warning(
            "%d of %d questions leave less than %d tokens for the answer, of the %d that the model reads: %s. An "
            "answer that grows beyond them may be poor; a lower limit of new tokens bounds it.",
            len(tight),
            len(questions),
            max_new_tokens,
            limit,
            _listed(tight),
        )


def _listed(lengths: Sequence[tuple[Question, int]]) -> str:
    shown = [f"{name_of(question)} ({length} tokens)" for question, length in lengths[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(lengths) - _SHOWN} more" if len(lengths) > _SHOWN else "")
