"""The one loop that turns questions into an answers file: batched, resumable, with a progress bar."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError
from llava_mocle.evaluation.answering.file import AnswerFile, AnswerRun, make_answer
from llava_mocle.evaluation.answering.question import GenerationSettings, Question, check_questions
from llava_mocle.io.progress import progress

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

_SCORE_DIGITS = 5


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
    description: str = "answers",
) -> list[dict[str, Any]]:
    """Answer `questions` in order into `answers_file`, from where an earlier run stopped.

    Returns:
        The answer records of exactly these questions, in their order.

    Raises:
        DataError: a question stands twice, an image is missing, another process is writing the answers file, or the
            file's answers are of another model, other settings or other questions.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: must be at least 1.")
    settings = settings or GenerationSettings()
    check_questions(questions, shared_ids=True)
    with AnswerFile(answers_file, answer_run(predictor, settings), overwrite=overwrite) as file:
        done = file.check_prefix(questions)
        with progress(len(questions), description, "question", initial=done) as bar:
            while done < len(questions):
                batch = questions[done : done + batch_size]
                file.append(_answer_batch(predictor, batch, settings))
                done += len(batch)
                bar.update(len(batch))
        return file.answers[: len(questions)]


def _answer_batch(
    predictor: "Predictor", batch: Sequence[Question], settings: GenerationSettings
) -> list[dict[str, Any]]:
    """Generate the answers of a batch together; questions with candidates are ranked one by one."""
    asked = [question for question in batch if not question.candidates]
    predictions = iter(predictor.predict_batch([_request(question) for question in asked], **asdict(settings)))
    records = []
    for question in batch:
        if question.candidates:
            ranking = predictor.rank(_request(question), question.candidates)
            text, routed = question.candidates[ranking.best], ranking
            found: dict[str, Any] = {"scores": [round(score, _SCORE_DIGITS) for score in ranking.scores]}
        else:
            prediction = next(predictions)
            text, routed, found = prediction.text, prediction, {"generation": settings.describe()}
        metadata = {"cluster_id": routed.cluster_id, "cluster_distance": routed.cluster_distance} | found
        metadata["predictor"] = predictor.settings
        optional = {"dataset": question.dataset, "key": question.key}
        metadata |= {name: value for name, value in optional.items() if value is not None}
        records.append(make_answer(question.question_id, question.prompt, text, predictor.model_id, metadata))
    return records


def _request(question: Question) -> Any:
    from llava_mocle.inference import Request

    return Request(question.prompt, question.images, route_text=question.route_text, dataset=question.dataset)
