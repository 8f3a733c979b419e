import hashlib

import pytest

from llava_mocle.clustering.instruction import (
    InstructionRule,
    instruction_from_prompt,
    instruction_hash,
    instruction_text,
)
from llava_mocle.errors import ClusterModelError, ConfigError, DataError

FIRST, ALL = InstructionRule(), InstructionRule(turns="all")


def row(*values: str, **fields):
    turns = []
    for value in values:
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": "an answer"}]
    return {"id": "r1", "conversations": turns, **fields}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<image>\nWhat is it?", "What is it?"),
        ("What is it?\n<image>", "What is it?"),
        ("  <image> Compare\n<image>  ", "Compare"),
        ("no image", "no image"),
        ("<image>", ""),
        ("图中\u3000有什么？\n", "图中\u3000有什么？"),
    ],
)
def test_first_human_turn_without_image_marks(value, text):
    assert instruction_text(row(value), FIRST) == text


def test_turns():
    two = row("<image>\nWhat is it?", " And why?\n")
    assert instruction_text(two, FIRST) == "What is it?"
    assert instruction_text(two, ALL) == "What is it?\nAnd why?"


def test_a_system_turn_and_a_leading_answer_do_not_route():
    turns = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Go"}]
    assert instruction_text({"conversations": turns}, FIRST) == "Go"


def test_route_text_wins():
    assert instruction_text(row("<image>\nOCR: A B C. Read it.", route_text=" <image>Read it. "), FIRST) == "Read it."
    assert instruction_text(row("one", "two", route_text="x"), ALL) == "x"
    assert instruction_text(row("one", route_text=None), FIRST) == "one"


@pytest.mark.parametrize("rule", [FIRST, ALL])
def test_a_request_is_routed_like_the_row(rule):
    values = ["<image>\nWhat is it?", "And why? "]
    assert instruction_from_prompt(values, rule) == instruction_text(row(*values), rule)
    assert instruction_from_prompt(values[0], rule) == instruction_text(row(values[0]), rule)


@pytest.mark.parametrize("rule", [FIRST, ALL])
def test_text_that_utf8_cannot_hold_routes_nothing(rule):
    with pytest.raises(DataError, match=r"^row with id 'r1': a human turn's 'value' holds half a surrogate pair"):
        instruction_text(row("broken \ud83d mark"), rule)
    with pytest.raises(DataError, match=r"^row with id 'r1': field 'route_text' holds half a surrogate pair"):
        instruction_text(row("fine", route_text="\udc00"), rule)
    with pytest.raises(DataError, match=r"^the prompt holds half a surrogate pair \(U\+D83D\) at character 7"):
        instruction_from_prompt("broken \ud83d", rule)


def test_an_instruction_is_hashed_by_its_bytes():
    assert instruction_hash("é?") == hashlib.sha256("é?".encode()).hexdigest()[:32]


@pytest.mark.parametrize("rule", [FIRST, ALL])
def test_a_first_turn_of_gpt_changes_nothing(rule):
    """So the rule keeps its version: rows route as they did, and as training reads them."""
    plain = row("<image>\nWhat is it?", "And why?")
    greeted = plain | {"conversations": [{"from": "gpt", "value": "Hi <image>"}, *plain["conversations"]]}
    assert instruction_text(greeted, rule) == instruction_text(plain, rule)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"id": 7}, ["id 7", "'conversations'"]),
        ({"id": 7, "conversations": [{"from": "gpt", "value": "x"}]}, ["id 7", "'human'", "route_text"]),
        ({"conversations": [{"from": "human", "value": None}]}, ["without an id", "'value'"]),
        (row("x", route_text=" "), ["'r1'", "'route_text'"]),
        (row("x", route_text=3), ["'route_text'", "3"]),
    ],
)
def test_rows_that_nothing_routes(bad, words):
    with pytest.raises(DataError) as error:
        instruction_text(bad, FIRST)
    for word in words:
        assert word in str(error.value)


def test_unknown_rule():
    with pytest.raises(ConfigError, match=r"'last'.*'first', 'all'"):
        InstructionRule(turns="last")
    with pytest.raises(ClusterModelError, match="version is 2"):
        InstructionRule(version=2)
    with pytest.raises(DataError, match="at least one prompt"):
        instruction_from_prompt([], FIRST)
