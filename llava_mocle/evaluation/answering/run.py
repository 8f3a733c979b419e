"""The one loop that turns questions into an answers file: batched, resumable, with a progress bar."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.ahead import AnswersAhead, ahead_file
from llava_mocle.evaluation.answering.file import AnswerFile, AnswerRun, make_answer
from llava_mocle.evaluation.answering.lengths import check_lengths
from llava_mocle.evaluation.answering.order import batches
from llava_mocle.evaluation.answering.question import (
    GenerationSettings,
    Question,
    check_questions,
    name_of,
    request_of,
)
from llava_mocle.io.progress import progress

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

_SCORE_DIGITS = 5
# Questions that are put into an order of their own: many enough for full batches, and their clusters found in seconds.
_ORDERED_TOGETHER = 4096


def answer_run(predictor: "Predictor", settings: GenerationSettings) -> AnswerRun:
    """What all answers of this model with these settings share."""
    return AnswerRun(predictor.model_id, {"generation": settings.describe(), "predictor": predictor.settings})


def answer_questions(
    predictor: "Predictor",
    questions: Sequence[Question],
    answers_file: str | Path,
    *,
    batch_size: int = 8,
    settings: GenerationSettings | None = None,
    overwrite: bool = False,
    skip_unaskable: bool = False,
    description: str = "answers",
    others: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Answer `questions` into `answers_file`, from where an earlier run stopped.

    The file has the questions' order. They are answered in another one, see `batches`, a few thousand at a time.

    Args:
        others: further answers files; what an earlier run left beside them is taken over (`AnswersAhead`).
        skip_unaskable: a question that is too long for the model, or has an image that cannot be read, gets an empty
            answer, whose `metadata.skipped` says why.

    Returns:
        The answer records of exactly these questions, in their order.

    Raises:
        DataError: a question stands twice or is too long, an image is missing or cannot be read, another process is
            writing the answers file, or the file's answers are of another model, other settings or other questions.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: must be at least 1.")
    settings = settings or GenerationSettings()
    check_questions(questions, shared_ids=True)
    check_lengths(predictor, questions, settings.max_new_tokens, skip=skip_unaskable)
    with AnswerFile(answers_file, answer_run(predictor, settings), overwrite=overwrite) as file:
        if overwrite:
            ahead_file(file.path).unlink(missing_ok=True)
        file.check_prefix(questions)
        ahead = AnswersAhead(file, questions, others)
        missing = ahead.missing
        with progress(len(questions), description, "question", initial=len(questions) - len(missing)) as bar:
            for begin in range(0, len(missing), _ORDERED_TOGETHER):
                part = missing[begin : begin + _ORDERED_TOGETHER]
                for places in batches(predictor, [questions[index] for index in part], batch_size):
                    batch = [part[place] for place in places]
                    asked = [questions[index] for index in batch]
                    ahead.add(batch, _answer_or_skip(predictor, asked, settings, skip_unaskable))
                    bar.update(len(batch))
        ahead.close()
        return file.answers[: len(questions)]


def _answer_or_skip(
    predictor: "Predictor", batch: Sequence[Question], settings: GenerationSettings, skip: bool
) -> list[dict[str, Any]]:
    """`_answer_batch`; if one of the questions cannot be asked, each is asked alone, and that one skipped or named."""
    try:
        return _answer_batch(predictor, batch, settings)
    except DataError as error:
        if len(batch) > 1:
            return [record for one in batch for record in _answer_or_skip(predictor, [one], settings, skip)]
        (question,) = batch
        if not skip:
            raise DataError(
                f"{name_of(question)} cannot be asked: {error}. The answers so far are kept. Mend it, or pass "
                "--skip-unaskable, which gives it an empty answer; the same command goes on."
            ) from error
        # No candidate is likelier than another.
        found = {"scores": [0.0] * len(question.candidates)} if question.candidates else {}
        return [_record(predictor, question, "", {"skipped": str(error)} | found)]


def _answer_batch(
    predictor: "Predictor", batch: Sequence[Question], settings: GenerationSettings
) -> list[dict[str, Any]]:
    """Generate the answers of a batch together; questions with candidates are ranked one by one."""
    asked = [question for question in batch if not question.candidates]
    predictions = iter(predictor.predict_batch([request_of(question) for question in asked], **asdict(settings)))
    records = []
    for question in batch:
        if question.candidates:
            ranking = predictor.rank(request_of(question), question.candidates)
            text, routed = question.candidates[ranking.best], ranking
            found: dict[str, Any] = {"scores": [round(score, _SCORE_DIGITS) for score in ranking.scores]}
        else:
            prediction = next(predictions)
            text, routed, found = prediction.text, prediction, {"generation": settings.describe()}
        routing = {"cluster_id": routed.cluster_id, "cluster_distance": routed.cluster_distance}
        records.append(_record(predictor, question, text, routing | found))
    return records


def _record(predictor: "Predictor", question: Question, text: str, metadata: dict[str, Any]) -> dict[str, Any]:
    optional = {"dataset": question.dataset, "key": question.key}
    whole = metadata | {"predictor": predictor.settings}
    whole |= {name: value for name, value in optional.items() if value is not None}
    return make_answer(question.question_id, question.prompt, text, predictor.model_id, whole)
