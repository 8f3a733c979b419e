"""Answers that another system wrote: reading its file, and finding the question of each answer.

Forms: JSONL or a JSON list of records; a JSON object from ids to texts; CSV or TSV with a header; and the samples that
lmms-eval logs (JSONL, or the list under "logs" of its older files). LLaVA's answers files are the first form.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question, check_id
from llava_mocle.evaluation.tasks.shared.official_files import places, read_table, read_text
from llava_mocle.io.jsonl import json_fault, parse_jsonl
from llava_mocle.io.text import not_unicode, one_line

ID_KEYS = ("question_id", "questionId", "id", "qid", "index", "image_id", "image")
TEXT_KEYS = ("text", "answer", "prediction", "pred", "output", "response", "caption")
PROMPT_KEYS = ("prompt", "question", "input")
_SPLIT_KEYS = ("category", "split")
_LMMS_EVAL = "filtered_resps"
_SHOWN = 5
_SHOWN_LETTERS = 60


@dataclass(frozen=True)
class Given:
    """One answer.

    Attributes:
        place: its file and record, for messages.
        ids: what may name its question, the surest first.
        prompt: what was asked, where the record says so.
        position: the question's place in the benchmark, from 0: lmms-eval's `doc_id`.
        target: the right answer according to the record.
    """

    place: str
    text: str
    ids: tuple[str, ...] = ()
    prompt: str | None = None
    position: int | None = None
    target: str | None = None


def read_given(path: Path, key: str | None = None) -> list[Given]:
    """The answers of a file.

    Args:
        key: where a record has its answer; None: the one of `TEXT_KEYS` that it has.

    Raises:
        DataError: no such file, none of the forms, or a record without answer or with several; names the record.
    """
    found = [_given(record, place, key) for place, record in _records(path)]
    if not found:
        raise DataError(f"{path}: there is no answer in it; expected one a question.")
    return found


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() in (".csv", ".tsv"):
        return places(path, read_table(path, "," if path.suffix.lower() == ".csv" else "\t"))
    text = read_text(path)
    try:
        lines = path.suffix.lower() == ".jsonl" and text.lstrip()[:1] != "["
        content = None if lines else json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError:
        content = None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({json_fault(error)}); expected answers.") from error
    if content is None:
        remedy = "expected one JSON object a line, a JSON list, or an object of answers."
        return _objects(list(parse_jsonl(text, path, remedy)))
    if isinstance(content, dict) and isinstance(content.get("logs"), list):
        content = content["logs"]
    if isinstance(content, _Object) and not _is_record(content):
        if content.repeated:
            raise DataError(
                f"{path}: holds {len(content.repeated)} ids twice ({_listed(content.repeated)}); expected one answer a "
                "question."
            )
        return ((f"{path}, {name!a:.60}", _under(name, value)) for name, value in content.items())
    return places(path, [content] if isinstance(content, dict) else content)


class _Object(dict[str, Any]):
    """A JSON object that knows which keys it was written with twice: of these, only the last value is kept."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs) if len(self) < len(pairs) else {}
        self.repeated = [one_line(repr(name), _SHOWN_LETTERS) for name, count in counts.items() if count > 1]


def _objects(lines: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, record in lines:
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {record!r:.60}, expected an object with an id and an answer.")
        yield place, record


def _is_record(content: Mapping[str, Any]) -> bool:
    return _LMMS_EVAL in content or (any(k in content for k in ID_KEYS) and any(k in content for k in TEXT_KEYS))


def _under(name: str, value: Any) -> dict[str, Any]:
    return {**value, "question_id": name} if isinstance(value, dict) else {"question_id": name, "text": value}


def _given(record: Mapping[str, Any], place: str, key: str | None) -> Given:
    keys = [key] if key else [name for name in TEXT_KEYS if name in record]
    logged = not keys and _LMMS_EVAL in record
    if logged:
        keys = [_LMMS_EVAL]
    if len(keys) != 1 or keys[0] not in record:
        wanted = repr(key) if key else "one of " + ", ".join(TEXT_KEYS)
        raise DataError(
            f"{place}: has {', '.join(map(repr, keys if len(keys) > 1 else record)) or 'nothing'}, expected {wanted}. "
            "--answers-key says where the answer stands."
        )
    text = _text(_only(record[keys[0]]) if logged else record[keys[0]], f"{place}: {keys[0]!r}")
    inner = [value for value in (record, *record.values()) if isinstance(value, Mapping)]
    named = [(value, name) for value in inner for name in ID_KEYS if name != keys[0] and name in value]
    position = record.get("doc_id")
    position = position if isinstance(position, int) and not isinstance(position, bool) else None
    if not named and position is None:
        raise DataError(f"{place}: names no question; expected {', '.join(ID_KEYS)}, or lmms-eval's doc_id.")
    ids: list[str] = []
    for holder, name in named[:1]:
        official = str(check_id(holder[name], place, name))
        # Ids that count from 1 in every split: here the split stands in front.
        splits = [holder[split] for split in _SPLIT_KEYS if isinstance(holder.get(split), str)]
        ids = [f"{split}-{official}" for split in splits] + [official]
    prompts = (_first(record[name]) for name in PROMPT_KEYS if name in record and name != keys[0])
    target = record.get("target")
    return Given(
        place=place,
        text=text,
        ids=tuple(ids),
        prompt=next((prompt for prompt in prompts if isinstance(prompt, str)), None),
        position=position,
        target=target if isinstance(target, str) else None,
    )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _only(value: Any) -> Any:
    """What lmms-eval's nested lists hold, where it is one thing."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _text(value: Any, name: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if isinstance(value, list):
        raise DataError(
            f"{name} is {value!r:.60}, expected one text; likelihoods and several answers to a question are not scored."
        )
    if not isinstance(value, str):
        raise DataError(f"{name} is {value!r:.60}, expected a text; an answer that is not there is an empty text.")
    if broken := not_unicode(value):
        raise DataError(f"{name} has {broken}, which UTF-8 cannot hold; write the whole character.")
    return value


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
            lines.append(f"{len(missing)} questions have no answer ({_listed([repr(q.unique_id) for q in missing])})")
        if self.unknown:
            names = [f"{given.place.rpartition(', ')[2]}: {_id(given)}" for given in self.unknown]
            lines.append(f"{len(self.unknown)} answers are to no question ({_listed(names)})")
        if self.repeated:
            names = [f"{given.place.rpartition(', ')[2]}: {_id(given)}" for given in self.repeated]
            lines.append(f"{len(self.repeated)} answers are to a question that was answered before ({_listed(names)})")
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
                    f"{len(candidates)} questions share the id {_id(answer)}, and {answer.place} has no prompt to tell "
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


def _id(answer: Given) -> str:
    return one_line(repr(answer.ids[-1]), _SHOWN_LETTERS) if answer.ids else f"doc_id {answer.position}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
