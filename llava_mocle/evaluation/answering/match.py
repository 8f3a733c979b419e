"""Answers that another system wrote: finding the question of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.given_file import Given, listed
from llava_mocle.evaluation.answering.question import Question


@dataclass
class _Matched:
    """question number -> its answer, and what does not fit."""

    found: dict[int, Given] = field(default_factory=dict)
    unknown: list[Given] = field(default_factory=list)
    repeated: list[Given] = field(default_factory=list)
    other: str = ""

    def faults(self, questions: Sequence[Question]) -> list[str]:
        missing = [q for number, q in enumerate(questions) if number not in self.found]
        lines = [self.other] if self.other else []
        if missing:
            lines.append(f"{len(missing)} questions have no answer ({listed([repr(q.unique_id) for q in missing])})")
        if self.unknown:
            names = [f"{given.place.rpartition(', ')[2]}: {given.name}" for given in self.unknown]
            lines.append(f"{len(self.unknown)} answers are to no question ({listed(names)})")
        if self.repeated:
            names = [f"{given.place.rpartition(', ')[2]}: {given.name}" for given in self.repeated]
            lines.append(f"{len(self.repeated)} answers are to a question that was answered before ({listed(names)})")
        return lines


def match_given(
    given: Sequence[Given],
    questions: Sequence[Question],
    path: Path,
    limit: int | None = None,
    is_right: Callable[[int, str], bool | None] = lambda number, target: None,
) -> list[Given]:
    """The answer to each of the first `limit` questions, in their order.

    An answer is found by its id: the question's `question_id`, or its `key`. Where questions share an id, its prompt
    decides. lmms-eval's answers without ids are taken by their place if their prompts or targets confirm it.

    Args:
        questions: all of the benchmark.
        path: the answers' file, for the message.
        is_right: (question number, target) -> whether a record's target is the question's right answer; None: unknown.

    Raises:
        DataError: questions without answer, answers to no question or to one that was answered before; counts and names
            them.
    """
    matched = _by_id(given, questions) if all(answer.ids for answer in given) else None
    if (matched is None or matched.faults(questions[:limit])) and all(answer.position is not None for answer in given):
        placed = _by_position(given, questions, is_right)
        if matched is None or not placed.faults(questions[:limit]):
            matched = placed
    if matched is None:
        raise DataError(f"{path}: some answers name their question, and some do not; expected an id in each.")
    faults = matched.faults(questions[:limit])
    if faults:
        first = questions[0]
        known = repr(first.question_id) + ("" if first.key is None else f", or {first.key!r}")
        raise DataError(
            f"{path}: does not answer the {len(questions[:limit])} questions: {'; '.join(faults)}. The id of the first "
            f"question is {known}."
        )
    return [matched.found[number] for number in range(len(questions[:limit]))]


def _by_id(given: Sequence[Given], questions: Sequence[Question]) -> _Matched:
    names: dict[str, list[int]] = {}
    keys: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        names.setdefault(str(question.question_id), []).append(number)
        keys.setdefault(str(question.unique_id), []).append(number)
    matched = _Matched()
    for answer in given:
        # A key with its split in front is surer than an id; otherwise ids come first, as in LLaVA's files.
        tables = [(keys, name) for name in answer.ids[:-1]] + [(names, answer.ids[-1]), (keys, answer.ids[-1])]
        candidates = next((table[name] for table, name in tables if name in table), [])
        if len(candidates) > 1:
            if answer.prompt is None:
                matched.other = matched.other or (
                    f"{len(candidates)} questions share the id {answer.name}, and {answer.place} has no prompt to tell "
                    "which it answers"
                )
            candidates = _asked(answer, candidates, questions)
        free = [number for number in candidates if number not in matched.found]
        if free:
            matched.found[free[0]] = answer
        else:
            (matched.repeated if candidates else matched.unknown).append(answer)
    return matched


def _asked(answer: Given, candidates: Sequence[int], questions: Sequence[Question]) -> list[int]:
    """Those of the candidates that a prompt asks: its very text, else the longest question that it contains."""
    if answer.prompt is None:
        return []
    prompt = _plain(answer.prompt)
    same = [number for number in candidates if _plain(questions[number].prompt) == prompt]
    if same:
        return same
    contained = {number: _contained(questions[number], prompt) for number in candidates}
    longest = max(contained.values())
    return [number for number in candidates if longest and contained[number] == longest]


def _contained(question: Question, prompt: str) -> int:
    """How many letters of the question's first line stand in a prompt: all, or none."""
    line = _plain((question.route_text or question.prompt).replace(IMAGE_TOKEN, "").strip().split("\n")[0])
    line = line.removeprefix("question: ").removesuffix(" short answer:")
    return len(line) if line in prompt else 0


def _mentions(prompt: str, question: Question) -> bool:
    """Whether one of the two longest lines of a question stands in a prompt; a hint or the options may be left out."""
    lines = sorted(map(_plain, (question.route_text or question.prompt).split("\n")), key=len)
    return any(line in prompt for line in lines[-2:] if line)


def _plain(text: str) -> str:
    return " ".join(text.replace(IMAGE_TOKEN, " ").lower().split())


def _by_position(
    given: Sequence[Given], questions: Sequence[Question], is_right: Callable[[int, str], bool | None]
) -> _Matched:
    matched = _Matched()
    for answer in given:
        number = answer.position
        if number is None or not 0 <= number < len(questions):
            matched.unknown.append(answer)
            continue
        right = None if answer.target is None else is_right(number, answer.target)
        asked = None if answer.prompt is None else _mentions(_plain(answer.prompt), questions[number])
        if asked is False or right is False or asked is right is None:
            why = "neither its prompt nor its target says" if asked is right is None else "its prompt or target denies"
            matched.other = matched.other or (
                f"{answer.place} has no id but doc_id {number}, and {why} that this is question {number} here"
            )
            continue
        if number in matched.found:
            matched.repeated.append(answer)
        else:
            matched.found[number] = answer
    return matched
