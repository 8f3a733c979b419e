"""What is asked of a model, and how its answers are generated."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.errors import DataError
from llava_mocle.io.paths import why_no_file
from llava_mocle.io.text import not_unicode, one_line

if TYPE_CHECKING:
    from llava_mocle.inference.request import Request


@dataclass(frozen=True)
class Question:
    """One thing to ask a model.

    Attributes:
        question_id: the id in the answers file, as LLaVA's scripts know it; see `check_id`. Questions may share one.
        prompt: the question; `<image>` is put in front where it is missing and there are images.
        images: image files.
        route_text: the text that chooses the cluster; None: the prompt itself.
        dataset: the dataset that it belongs to; models routed by dataset need it.
        source: its file and row, for error messages.
        candidates: answers to rank by likelihood; empty where the answer is generated.
        key: tells the question from all others of its benchmark; None: its id does.
    """

    question_id: str | int
    prompt: str
    images: tuple[Path, ...] = ()
    route_text: str | None = None
    dataset: str | None = None
    source: str = ""
    candidates: tuple[str, ...] = ()
    key: str | int | None = None

    @property
    def unique_id(self) -> str | int:
        """The key, or the id where that does."""
        return self.question_id if self.key is None else self.key


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated; greedily by default. The fields are arguments of `Predictor.predict_batch`."""

    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float | None = None
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0

    def describe(self) -> str:
        """One line with all settings but penalties of 1, which change nothing. Every answer carries it."""
        left_out = (("length_penalty", 1), ("repetition_penalty", 1), ("top_p", None))
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if (name, value) not in left_out)


def check_id(value: Any, place: str, name: str = "question_id") -> str | int:
    """The one rule for ids: a whole number, or a text that is not blank and that UTF-8 can hold.

    An answers file gives such an id back exactly as it was. True and false are no numbers, and 1.0 is not whole.

    Raises:
        DataError: it is something else; names place, field and value.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        fault = f"{value!r:.60}"
    elif isinstance(value, str) and not value.strip():
        fault = f"{value!r}, which is blank"
    elif isinstance(value, str) and (broken := not_unicode(value)):
        fault = f"{value!a:.60}, which has {broken}"
    else:
        return value
    raise DataError(f"{place}: field {name!r} is {fault}, expected a text or a whole number; give every question one.")


def check_questions(questions: Sequence[Question], *, shared_ids: bool = False, images: bool = True) -> None:
    """Refuse what cannot be asked, or cannot be told apart, before any work is done.

    Ids are compared as texts: 1 and "1" are the same.

    Args:
        shared_ids: questions with different prompts may share an id. In LLaVA's files for MME and TextVQA, questions
            about one image do. Scores and submissions need a `unique_id` a question.
        images: whether the images have to be there, and marked as they are shown.

    Raises:
        DataError: an id against the rule (`check_id`); a repeated question; a text that is blank or that UTF-8 cannot
            hold; `<image>` marks that are not one an image; or a missing image. Names the first.
    """
    for question in questions:
        check_id(question.question_id, question.source or "questions")
        _check_texts(question)
        if images:
            _check_marks(question)
    _check_repeated(questions, shared_ids)
    if images:
        _check_images(questions)


def _check_texts(question: Question) -> None:
    texts = {"question": question.prompt, "route_text": question.route_text}
    texts |= {f"candidate {number}": text for number, text in enumerate(question.candidates)}
    for name, text in texts.items():
        if text is None:
            continue
        if not isinstance(text, str):
            fault = f"{name} is {text!r:.60}, expected a text"
        elif broken := not_unicode(text):
            fault = f"{name} has {broken}, which no file or tokenizer takes; write the whole character"
        elif not text.strip() and name != "route_text":
            fault = f"{name} is {text!r:.60}, expected a text that is not blank"
        else:
            continue
        raise DataError(f"{name_of(question)}: its {fault}.")


def _check_marks(question: Question) -> None:
    marks, images = question.prompt.count(IMAGE_TOKEN), len(question.images)
    if marks not in (0, images):
        raise DataError(
            f"{name_of(question)}: {marks} {IMAGE_TOKEN} marks for {images} images; use one mark an image, or none at "
            "all."
        )


def _check_repeated(questions: Sequence[Question], shared_ids: bool) -> None:
    names: list[Any]
    names = [
        (str(question.question_id), question.prompt, question.key) if shared_ids else str(question.unique_id)
        for question in questions
    ]
    counts = Counter(names)
    repeated = [(name, question) for name, question in zip(names, questions, strict=True) if counts[name] > 1]
    if repeated:
        name, question = repeated[0]
        needed = "Questions may share an id, but not the text too." if shared_ids else "Every question needs its own."
        raise DataError(
            f"{question.source or 'questions'}: question_id {question.unique_id!r} stands {counts[name]} times "
            f"({len({name for name, _ in repeated})} ids are duplicated). {needed}"
        )


def _check_images(questions: Sequence[Question]) -> None:
    missing = [
        (question, image, reason)
        for question in questions
        for image in question.images
        if (reason := why_no_file(image)) is not None
    ]
    if missing:
        question, image, reason = missing[0]
        raise DataError(
            f"{name_of(question)} needs the image {one_line(image)}: {reason} ({len(missing)} missing of "
            f"{sum(len(question.images) for question in questions)}). Check the image folder."
        )


def name_of(question: Question) -> str:
    """How messages name a question: its file and row, and its id."""
    return f"{question.source or 'questions'}: question {question.question_id!r}"


def request_of(question: Question) -> "Request":
    """What a `Predictor` is asked."""
    from llava_mocle.inference.request import Request

    return Request(question.prompt, question.images, route_text=question.route_text, dataset=question.dataset)
