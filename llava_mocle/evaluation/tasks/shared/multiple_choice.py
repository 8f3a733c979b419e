"""Multiple choice with one right option: an answer is a letter, or the options are ranked by likelihood.

An option without text cannot be chosen, but keeps its letter: of the options "cat", "" and "dog", A and C remain.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar

from llava_mocle.data.official_files import ID, TEXT_OR_NUMBER, field, read_json
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.options import letter_or_text, option_text, parse_option_letter
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER, check_style
from llava_mocle.evaluation.task import Item, Task
from llava_mocle.evaluation.tasks.shared.candidate_scores import candidate_scores


def choice_question(question: str, options: Sequence[str], prompts: str) -> str:
    """The prompt: LLaVA's has an option a line, the paper's all on one, joined as in its Tables 10 and 16.

    >>> choice_question("Which?", ["cat", "dog"], "instructblip")
    'Question: Which? Options: (a) cat (b) dog. Short answer:'
    """
    check_style(prompts)
    if prompts == "llava":
        pairs = zip(ascii_uppercase, options, strict=False)
        return question + "".join(f"\n{letter}. {option}" for letter, option in pairs if option) + OPTION_LETTER
    pairs = zip(ascii_lowercase, options, strict=False)
    listed = " ".join(f"({letter}) {option}" for letter, option in pairs if option)
    return f"Question: {question} Options: {listed}. Short answer:"


def gold_index(answer: Any, options: Sequence[str], place: str) -> int:
    """The right option's index from the file's index or letter.

    Raises:
        DataError: fewer than two options, or the answer is none of them.
    """
    letters = ascii_uppercase[: len(options)]
    index = letters.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    count = sum(map(bool, options))
    known = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(options)
    if not known or not options[index] or count < 2:
        raise DataError(
            f"{place}: the answer is {answer!r} with {count} options; expected two options or more and the "
            "index or letter of one of them. Is this the file of a split without answers?"
        )
    return index


def choice_item(
    question_id: str | int,
    question: str,
    options: Sequence[Any],
    answer: Any,
    *,
    images: tuple[Path, ...],
    place: str,
    prompts: str,
    rewrite: Callable[[str], str] = str,
    key: str | int | None = None,
    keys: Mapping[str, Any] | None = None,
) -> Item:
    """A multiple-choice question; its reference is the right option's index.

    Args:
        answer: the right option's index or letter.
        prompts: "llava" asks for a letter; with "instructblip" the options are ranked.
        rewrite: last change to the prompt of `choice_question`.
        key: the question's (see `Question`).
        keys: further keys of the item; `options` is always among them.

    Raises:
        DataError: see `gold_index`.
    """
    texts = tuple(str(option) for option in options)
    asked = Question(
        question_id=question_id,
        prompt=rewrite(choice_question(question, texts, prompts)),
        images=images,
        source=place,
        candidates=tuple(filter(None, texts)) if prompts == "instructblip" else (),
        key=key,
    )
    return Item(asked, gold_index(answer, texts, place), {**(keys or {}), "options": texts})


def split_problems(folder: Path, split: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(id, place for messages, problem) of a split, of problems.json and pid_splits.json as IconQA and ScienceQA have.

    Raises:
        DataError: no such split, or a problem of it is missing.
    """
    path, splits = folder / "problems.json", folder / "pid_splits.json"
    problems = read_json(path)
    for pid in field(read_json(splits), split, str(splits), list[ID]):
        yield str(pid), f"{path}, problem {pid}", field(problems, str(pid), str(path))


def record_item(
    question_id: str | int,
    record: Mapping[str, Any],
    place: str,
    prompts: str,
    image: Path | None,
    rewrite: Callable[[str], str] = str,
    answer_key: str = "answer",
) -> Item:
    """The `choice_item` of a record with `question`, `choices`, and the right one's index under `answer_key`."""
    return choice_item(
        question_id,
        field(record, "question", place, str),
        field(record, "choices", place, list[TEXT_OR_NUMBER]),
        field(record, answer_key, place, int),
        images=(image,) if image else (),
        place=place,
        prompts=prompts,
        rewrite=rewrite,
    )


class ChoiceTask(Task):
    """A multiple-choice benchmark; its items are made by `choice_item`.

    Attributes:
        letter_decides: the official scorer compares letters, so a generated answer with the letter of another option
            is wrong, even if that option has the right one's text.
    """

    letter_decides: ClassVar[bool] = False
    max_new_tokens = 128  # an answer may spell its option out; as many as LLaVA's loader of questions generates

    def option(self, text: str, options: Sequence[str]) -> int | None:
        """The index of the option that a generated text means, None where that can't be told.

        This is a reading for benchmarks without an official one. It tries in order: a letter in one of the usual
        forms; an option's text; `letter_or_text`.
        """
        for reading in (parse_option_letter, option_text, letter_or_text):
            index = reading(text, options)
            if index is not None:
                return index
        return None

    def read(self, item: Item, answer: Mapping[str, Any]) -> int | None:
        """The index of the chosen option.

        Among ranked options the likeliest is chosen, and of equally likely ones the first that is wrong. Options with
        the right one's text are right as well (but see `letter_decides`).
        """
        options = item.keys["options"]
        right = {index for index, option in enumerate(options) if option == options[item.reference]}
        if self.letter_decides and not item.question.candidates:
            return self.option(answer["text"], options)
        if item.question.candidates:
            places = [index for index, option in enumerate(options) if option]
            scores = dict(zip(places, candidate_scores(item, answer), strict=True))
            best: int | None = max(places, key=lambda index: (scores[index], index not in right))
        else:
            best = self.option(answer["text"], options)
        return int(item.reference) if best in right else best

    def right(self, items: Sequence[Item], said: Sequence[int | None]) -> list[float]:
        """1.0 for each right choice, else 0.0."""
        return [float(index == item.reference) for index, item in zip(said, items, strict=True)]

    def value(self, item: Item, said: Any) -> float:
        return float(said == item.reference)
