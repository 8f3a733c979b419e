"""Every way a file of rows can be wrong; each message names file, row, field, value and remedy."""

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
    path.write_text(json.dumps(rows, ensure_ascii="\\ud83d" in json.dumps(rows)), encoding="utf-8")
    return path


def test_json_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    rows = [GOOD, make_row("q\u2028x", "猫", row_id=7) | {"route_text": "q", "extra": [1]}]
    rows.append(make_row("<image> <image>", "a", image=["x", "y"]) | {"image": ["x", "y"]})
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lines.json").write_text(lines, encoding="utf-8")
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    for path in (write(tmp_path, rows), tmp_path / "rows.jsonl", tmp_path / "lines.json", tmp_path / "bom.json"):
        assert list(read_rows(path)) == rows


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
        "conversations[0].value: found half of a surrogate pair",
    ),
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


def test_dropped_first_turn_does_not_count_its_tag() -> None:
    row = make_row("q", "a", image="x")
    row["conversations"].insert(0, {"from": "gpt", "value": "<image> hello"})
    assert [problem.kind for problem in row_problems(row, 0) if problem.fatal] == ["image count"]


def test_other_bad_rows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": 1}, GOOD, {"id": 2}, turn_row(human("q"))])
    with pytest.raises(DataError, match=r"row 0.*2 more rows have problems.*data check"):
        read_rows(path)


def test_long_values_are_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write(tmp_path, ["x" * 10_000]))
    assert len(str(caught.value)) < 400


BROKEN_FILES = {
    "cut list": ("rows.json", '[{"id": 1},\n {"id": 2, "conv', r"line 2, column 12 \(character 23\).*cut off"),
    "cut after a row": ("rows.json", '[{"id": 1},', r"line 1.*cut off"),
    "bad in the middle": ("rows.json", '[{"id": 1}\n {"id": 2}]', r"line 2, column 2 \(character 12\)"),
    "cut line": ("rows.jsonl", '{"id": 1}\n{"id": ', r"line 2, column 8.*last line.*cut off"),
    "bad line": ("rows.jsonl", '{"id": 1}\n{"id" 2}\n{"id": 3}', r"line 2, column 7 "),
    "no list": ("rows.json", '"text"', "found a JSON string, expected a list"),
    "empty list": ("rows.json", "[]", "no rows"),
    "empty file": ("rows.jsonl", "", "no rows"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files(case: str, tmp_path: Path) -> None:
    name, text, message = BROKEN_FILES[case]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    if "middle" in case or case == "bad line":
        assert "cut off" not in str(caught.value)


def test_no_such_file_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: no such file.*data_path"):
        read_rows(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="folder"):
        read_rows(tmp_path)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"id": "\xe9"}]')
    with pytest.raises(DataError, match="byte 9 is not UTF-8"):
        read_rows(path)
