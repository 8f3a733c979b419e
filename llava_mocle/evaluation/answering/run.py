"""The one loop that turns questions into an answers file: batched, resumable, with a progress bar."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.file import AnswerFile, AnswerRun, make_answer

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

_SCORE_DIGITS = 5


@dataclass(frozen=True)
class Question:
    """One thing to ask a model.

    Attributes:
        question_id: unique among the questions of a run.
        prompt: the question; `<image>` is put in front where it is missing and there are images.
        images: image files.
        route_text: the text that chooses the cluster; None: the prompt itself.
        dataset: the dataset that it belongs to; models routed by dataset need it.
        source: its file and row, for error messages.
        candidates: answers to rank by likelihood; empty where the answer is generated.
    """

    question_id: str | int
    prompt: str
    images: tuple[Path, ...] = ()
    route_text: str | None = None
    dataset: str | None = None
    source: str = ""
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated; greedily by default. The fields are arguments of `Predictor.predict_batch`."""

    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float | None = None

    def describe(self) -> str:
        """One line with all settings. Every answer carries it."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)


def check_questions(questions: Sequence[Question], *, shared_ids: bool = False) -> None:
    """Refuse repeated questions, empty candidates and missing images before any work is done.

    Args:
        shared_ids: questions with different prompts may share an id. In LLaVA's files for MME and TextVQA, questions
            about one image do. Scores and submissions need an id a question.

    Raises:
        DataError: naming the first offenders.
    """
    names = [(question.question_id, question.prompt if shared_ids else "") for question in questions]
    counts = Counter(names)
    repeated = [(name, question) for name, question in zip(names, questions, strict=True) if counts[name] > 1]
    if repeated:
        name, question = repeated[0]
        needed = "Questions may share an id, but not the text too." if shared_ids else "Every question needs its own."
        raise DataError(
            f"{question.source or 'questions'}: question_id {name[0]!r} stands {counts[name]} times "
            f"({len({name for name, _ in repeated})} ids are duplicated). {needed}"
        )
    for question in questions:
        if any(not candidate.strip() for candidate in question.candidates):
            raise DataError(
                f"{question.source or 'questions'}: question {question.question_id!r} has an empty candidate among "
                f"{list(question.candidates)!r}; every answer to rank needs a text."
            )
    missing = [(question, image) for question in questions for image in question.images if not image.is_file()]
    if missing:
        question, image = missing[0]
        raise DataError(
            f"{question.source or 'questions'}: question {question.question_id!r} needs the image {image}, which does "
            f"not exist ({len(missing)} missing of {sum(len(q.images) for q in questions)}). Check the image folder."
        )


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
        with tqdm(total=len(questions), initial=done, unit="question", desc=description) as progress:
            while done < len(questions):
                batch = questions[done : done + batch_size]
                file.append(_answer_batch(predictor, batch, settings))
                done += len(batch)
                progress.update(len(batch))
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
        if question.dataset is not None:
            metadata["dataset"] = question.dataset
        records.append(make_answer(question.question_id, question.prompt, text, predictor.model_id, metadata))
    return records


def _request(question: Question) -> Any:
    from llava_mocle.inference import Request

    return Request(question.prompt, question.images, route_text=question.route_text, dataset=question.dataset)
