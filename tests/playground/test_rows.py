import json
from collections import Counter

import numpy as np
import pytest

from playground.domains.rows import (
    EVAL_QUESTION_TEMPLATE,
    Captioned,
    Fact,
    balanced,
    kind_of,
    majority_share,
    make_rows,
    write_domain,
)


def facts(split: str, count: int = 30) -> list[Fact]:
    """Answers of kind 'color' are lopsided: two thirds are red."""
    made = [Fact(f"d/{split}{i}.png", "color", "red" if i % 3 else "blue", "What color?") for i in range(count)]
    return made + [Fact(f"d/{split}{i}.png", "caption", f"thing {i}") for i in range(count)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_balanced_evens_out_answers(rng):
    chosen = balanced(facts("a"), {"color": 20, "caption": 5}, rng)
    assert Counter(f.kind for f in chosen) == {"color": 20, "caption": 5}
    assert Counter(f.answer for f in chosen if f.kind == "color") == {"red": 10, "blue": 10}
    assert len(set(chosen)) == 25


def test_balanced_gives_all_of_a_scarce_kind(rng):
    assert len(balanced(facts("a"), {"color": 500}, rng)) == 30
    assert balanced(facts("a"), {"other": 5}, rng) == []


def test_rows_are_llava_rows(rng):
    rows = make_rows("dom", "train", facts("a"), rng)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        human, gpt = row["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n")
        assert human["value"].count("<image>") == 1
        assert len(human["value"]) > len("<image>\n")
        assert gpt["value"]
        assert set(row) == {"id", "image", "conversations"}


def test_training_templates_vary_and_test_uses_one(rng):
    train = {row["conversations"][0]["value"] for row in make_rows("dom", "train", facts("a", 60), rng)}
    assert len(train) > 8
    test = [r for r in make_rows("dom", "test", facts("b"), rng) if kind_of(r) == "color"]
    assert {r["conversations"][0]["value"] for r in test} == {
        "<image>\n" + EVAL_QUESTION_TEMPLATE.format(question="What color?")
    }


def test_majority_share(rng):
    rows = make_rows("dom", "test", [f for f in facts("a") if f.kind == "color"], rng)
    assert majority_share(rows) == ("red", pytest.approx(2 / 3))


def test_write_domain(tmp_path, rng):
    captions = write_domain("d", tmp_path, facts("a"), facts("b"), [Captioned("d/a0.png", "a thing")], rng)
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"train.json", "test.json", "captions.json"}
    assert json.loads((tmp_path / "d" / "captions.json").read_text()) == captions
    assert captions[0]["conversations"][1]["value"] == "a thing"


def test_an_image_in_both_splits_is_an_error(tmp_path, rng):
    with pytest.raises(AssertionError, match="both splits"):
        write_domain("d", tmp_path, facts("a"), facts("a"), [], rng)
