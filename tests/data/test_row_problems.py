"""Every way a row can be wrong; each message names file, row, field, value and remedy."""

import json
from pathlib import Path

import pytest

from llava_mocle.data.row_problems import row_problems
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import DataError
from tests.data.conftest import make_row

GOOD = make_row("<image>\nq", "a", image="x.png", row_id="good")


def write(tmp_path: Path, rows: object, name: str = "rows.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(rows, ensure_ascii="\\ud" in json.dumps(rows)), encoding="utf-8")
    return path


def test_what_llava_data_holds_is_accepted(tmp_path: Path) -> None:
    without_id = make_row("q", "a")
    del without_id["id"]
    starts_with_gpt = make_row("q", "a")
    starts_with_gpt["conversations"].insert(0, {"from": "gpt", "value": "hello"})
    rows = [GOOD, GOOD, make_row("q", "a") | {"image": None}, make_row("q", "a", row_id=3), without_id, starts_with_gpt]
    assert len(read_rows(write(tmp_path, rows))) == 6
    kinds = [problem.kind for row in rows for problem in row_problems(row, 0)]
    assert kinds == ["first turn not human"]


def human(value: object) -> dict:
    return {"from": "human", "value": value}


def gpt(value: object) -> dict:
    return {"from": "gpt", "value": value}


def turn_row(*turns: object, **keys: object) -> dict:
    return {"id": "bad", "conversations": list(turns)} | keys


TAGGED = human("<image>\nq")
# case -> (row, kind of problem, what the message must say of the place, the value and what was expected)
BAD_ROWS = {
    "no object": ("text", "wrong type", "row: found 'text', expected an object"),
    "no conversations": ({"id": "bad"}, "missing key", "conversations: found keys id, expected the key"),
    "conversations no list": (turn_row() | {"conversations": {}}, "wrong type", "conversations: found {}, expected"),
    "no turns": (turn_row(), "wrong type", "conversations: found [], expected a list"),
    "turn no object": (turn_row(human("q"), "a"), "wrong type", "conversations[1]: found 'a', expected {'from'"),
    "no value": (turn_row(human("q"), {"from": "gpt"}), "missing key", "conversations[1].value: found keys from"),
    "no from": (turn_row({"value": "q"}, gpt("a")), "missing key", "conversations[0].from: found keys value"),
    "role": (
        turn_row(human("q"), {"from": "assistant", "value": "a"}),
        "unknown role",
        "conversations[1].from: found 'assistant', expected 'human' or 'gpt'",
    ),
    "value no text": (turn_row(human("q"), gpt(3)), "wrong type", "conversations[1].value: found 3, expected text"),
    "empty question": (
        turn_row(human(" \n"), gpt("a")),
        "empty turn",
        "conversations[0].value: found ' \\n', expected",
    ),
    "empty answer": (turn_row(human("q"), gpt("  ")), "empty answer", "conversations[1].value: found '  ', expected"),
    "answer is an image": (
        turn_row(human("q"), gpt("<image>"), image="x"),
        "empty answer",
        "conversations[1].value: found '<image>', expected",
    ),
    "half a character": (
        turn_row(human("q \ud83d"), gpt("a")),
        "wrong text",
        "conversations[0].value: found half a surrogate pair (U+D83D) at character 2",
    ),
    "half a character in an answer": (
        turn_row(human("q"), gpt("a \udc00")),
        "wrong text",
        "conversations[1].value: found half a surrogate pair",
    ),
    "half a character in route_text": (
        turn_row(human("q"), gpt("a"), route_text="\ud83d"),
        "wrong text",
        "route_text: found half a surrogate pair",
    ),
    "half a character in a path": (
        turn_row(TAGGED, gpt("a"), image=["\ud83d.png"]),
        "wrong text",
        "image[0]: found half a surrogate pair",
    ),
    "route_text no text": (turn_row(human("q"), gpt("a"), route_text=3), "wrong type", "route_text: found 3, expected"),
    "route_text empty": (turn_row(human("q"), gpt("a"), route_text=" "), "wrong type", "route_text: found ' ', exp"),
    "no answer": (
        turn_row(human("q"), gpt("a"), human("q")),
        "empty answer",
        "conversations[2]: found no answer after it, expected a last turn from 'gpt'",
    ),
    "only gpt": (turn_row(gpt("a")), "empty answer", "conversations[0]: found no answer after it, expected"),
    "two questions": (
        turn_row(human("q"), human("q"), gpt("a")),
        "turn order",
        "conversations[1].from: found 'human', expected 'gpt'",
    ),
    "image without tag": (
        turn_row(human("q"), gpt("a"), image="x"),
        "image count",
        "image: found 0 <image> tags in the turns, expected 1",
    ),
    "tag without image": (
        turn_row(TAGGED, gpt("a")),
        "image count",
        "image: found 1 <image> tag in the turns, expected 0",
    ),
    "two tags, one image": (
        turn_row(human("<image><image>"), gpt("a"), image="x"),
        "image count",
        "image: found 2 <image> tags in the turns, expected 1",
    ),
    "image no path": (turn_row(TAGGED, gpt("a"), image=5), "wrong type", "image: found 5, expected a path"),
    "images no paths": (turn_row(TAGGED, gpt("a"), image=[""]), "wrong type", "image[0]: found '', expected a path"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, tmp_path: Path) -> None:
    row, kind, place = BAD_ROWS[case]
    problems = [problem for problem in row_problems(row, 1) if problem.fatal]
    assert [problem.kind for problem in problems] == [kind]
    assert problems[0].remedy
    path = write(tmp_path, [GOOD, row])
    with pytest.raises(DataError) as caught:
        read_rows(path)
    where = "row 1 (id 'bad')" if isinstance(row, dict) else "row 1"
    assert str(caught.value).startswith(f"{path}: {where}, {place}")
    assert str(caught.value).endswith(f"; {problems[0].remedy}")


def test_an_id_that_utf8_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0 \(id '\\ud83d'\), id: found half a surrogate pair") as caught:
        read_rows(write(tmp_path, [make_row("q", "a", row_id="\ud83d")]))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("odd", [1.5, True, [1], {"a": 1}, float("nan")])
def test_an_id_that_no_answer_can_carry_is_a_remark(odd: object) -> None:
    (found,) = row_problems(make_row("q", "a", row_id=odd), 0)
    assert (found.kind, found.fatal) == ("odd id", False)


def test_dropped_first_turn_does_not_count_its_tag() -> None:
    row = make_row("q", "a", image="x")
    row["conversations"].insert(0, {"from": "gpt", "value": "<image> hello"})
    assert [problem.kind for problem in row_problems(row, 0) if problem.fatal] == ["image count"]


def test_long_values_are_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path, ["x" * 10_000]))
    assert len(str(caught.value)) < 400
