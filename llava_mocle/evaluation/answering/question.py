"""What is asked of a model, and how its answers are generated."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_mocle.errors import DataError
from llava_mocle.io.paths import why_no_file
from llava_mocle.io.text import one_line


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
    missing = [(question, image) for question in questions for image in question.images if why_no_file(image)]
    if missing:
        question, image = missing[0]
        raise DataError(
            f"{question.source or 'questions'}: question {question.question_id!r} needs the image "
            f"{one_line(image)}: {why_no_file(image)} ({len(missing)} missing of "
            f"{sum(len(q.images) for q in questions)}). Check the image folder."
        )
