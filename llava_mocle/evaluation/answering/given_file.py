"""Answers that another system wrote: reading its file.

Forms: JSONL or a JSON list of records; a JSON object from ids to texts; CSV or TSV with a header; and the samples that
lmms-eval logs (JSONL, or the list under "logs" of its older files). LLaVA's answers files are the first form.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import places, read_table, read_text
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import check_id
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

    @property
    def name(self) -> str:
        """What messages call it: its id, or its position."""
        return one_line(repr(self.ids[-1]), _SHOWN_LETTERS) if self.ids else f"doc_id {self.position}"


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
                f"{path}: holds {len(content.repeated)} ids twice ({listed(content.repeated)}); expected one answer a "
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


def listed(names: Sequence[str]) -> str:
    """The first of these names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
