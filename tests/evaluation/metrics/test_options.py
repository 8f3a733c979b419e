import pytest

from llava_mocle.evaluation.metrics.options import (
    bare_letter,
    circular_correct,
    letter_or_text,
    option_text,
    parse_option_letter,
    scienceqa_letter,
)

CITIES = ["Paris", "New York", "Rome", "Bern"]


@pytest.mark.parametrize(
    ("text", "n_options", "expected"),
    [
        ("A", 4, 0),
        (" B \t", 4, None),
        ("E", 5, 4),
        ("E", 4, None),
        ("F", 6, None),
        ("b", 4, None),
        ("C. Rome", 4, 2),
        ("C.", 4, None),
        ("C.Rome", 4, None),
        ("C) Rome", 4, None),
        ("(C)", 4, None),
        ("E. Oslo", 4, None),
        ("\u00c4. Rome", 4, None),
        # a line break is no ". "
        ("D\nBern", 4, None),
        ("D\n", 4, None),
        ("The answer is B.", 4, 1),
        # LLaVA's pattern has one more character behind the letter, whichever, but no line break
        ("The answer is B", 4, None),
        ("The answer is B\nNew York", 4, None),
        # stated once
        ("The answer is B. Yes: The answer is B.", 4, None),
        ("The answer is B. No: The answer is C.", 4, None),
        ("The answer is B. No: The answer is Z.", 4, None),
        ("The answer is F.", 6, None),
        ("I think so. The answer is D because", 4, 3),
        ("The answer is Bern", 4, 1),
        ("The answer is E.", 4, None),
        ("the answer is B.", 4, None),
        ("The answer is b.", 4, None),
        ("The answer is 2.", 4, None),
        ("F. The answer is B.", 4, 1),
        # A letter in front decides, even if the text goes on to state another.
        ("A. No: The answer is B.", 4, 0),
        ("Answer: B", 4, None),
        ("", 4, None),
        ("1", 4, None),
        ("AB", 4, None),
        ("\uff21", 4, None),
    ],
)
def test_scienceqa(text, n_options, expected):
    assert scienceqa_letter(text, n_options) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", 0),
        (" D\n", 3),
        ("E", None),
        ("a", None),
        ("A.", None),
        ("A. cat", None),
        ("AB", None),
        ("", None),
        ("1", None),
    ],
)
def test_bare_letter(text, expected):
    assert bare_letter(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the whole answer
        ("B", 1),
        ("b", 1),
        ("b.", 1),
        ("(C)", 2),
        ("(c).", 2),
        ("D:", 3),
        ("E", None),
        # in front
        ("B. New York", 1),
        ("B) New York", 1),
        ("(B) New York", 1),
        ("B: New York", 1),
        ("C.\nRome", 2),
        ("b. New York", None),
        ("E. Oslo", None),
        ("A city in France", None),
        ("B New York", None),
        # stated
        ("The answer is B", 1),
        ("The answer is (B) New York.", 1),
        ("Answer: D", 3),
        ("The correct answer is option C.", 2),
        ("I choose option C, clearly", 2),
        ("The answer is A. So the answer is A", 0),
        ("The answer is A, not option B", None),
        ("The answer is Bern", None),
        ("The answer is b", None),
        ("The answer is A's", None),
        ("answered B", None),
        ("New York", None),
        ("", None),
        ("()", None),
        ("2", None),
        ("\u0412", None),  # Cyrillic
    ],
)
def test_letter_of_any_form(text, expected):
    assert parse_option_letter(text, CITIES) == expected


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("new york.", CITIES, 1),
        ("the Rome", CITIES, 2),
        ("York", CITIES, None),
        ("Paris, France", CITIES, None),
        ("two", ["1", "2", "3"], 1),
        ("red", ["Red", "red."], None),
        ("", ["", "x"], None),
        ("a", ["a", "b"], None),  # all article: nothing is left to compare
        ("\u00c9t\u00e9", ["hiver", "\u00e9t\u00e9"], 1),
    ],
)
def test_option_text(text, options, expected):
    assert option_text(text, options) == expected


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("B", CITIES, 1),
        ("(B) New York", CITIES, 1),
        ("The answer is C.", CITIES, 2),
        ("D:Bern", CITIES, 3),
        ("B because of the B", CITIES, 1),
        # lower case is no letter, and letters inside words are none
        ("b", CITIES, None),
        ("BC", CITIES, None),
        # two letters: the text may still decide
        ("A or B", CITIES, None),
        ("Not A but C: Rome", CITIES, 2),
        # "A" at the beginning of a longer text may be the article
        ("It has a river. A city on it", CITIES, None),
        ("A city: Paris, that is A", CITIES, 0),
        ("A", CITIES, 0),
        ("It is A", CITIES, 0),
        ("A city on a river", CITIES, None),
        ("A trip to Rome today", CITIES, 2),
        # texts, case aside
        ("new york", CITIES, 1),
        ("It is Bern, of course", CITIES, 3),
        ("Rome and Paris", CITIES, None),
        ("Oslo", CITIES, None),
        # one option within another: both are contained
        ("a black cat", ["cat", "black cat"], None),
        ("a cat", ["cat", "black cat"], 0),
        # too long to be an answer: 31 characters against twice 15
        ("this is about cats and not hats", ["cats", "dogs", "seahors"], None),
        ("this is about cats and no hats", ["cats", "dogs", "seahors"], 0),
        # letters beyond the options, options without text
        ("E", CITIES, None),
        ("x", ["", "x"], 1),
        ("", CITIES, None),
        ("3", ["1", "2", "3"], 2),
        ("\u6771\u4eac\u3067\u3059", ["\u5927\u962a", "\u6771\u4eac"], 1),
    ],
)
def test_letter_or_text(text, options, expected):
    assert letter_or_text(text, options) == expected


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    "sentence",
    [
        "{}",
        "I think {} fits",
        "{} is the right one",
        "It has to be {} here",
        "So it is {}, without doubt",
        "{}: I see it there",
    ],
)
def test_every_letter_is_read_alike(sentence, number):
    assert letter_or_text(sentence.format("ABCD"[number]), CITIES) == number


def test_circular():
    groups = {1: [True, True, True, True], 2: [True, False, True, True], "x": [True], "y": [False, False]}
    assert circular_correct(groups) == {1: 1.0, 2: 0.0, "x": 1.0, "y": 0.0}
    with pytest.raises(ValueError, match="question 7 has no answers"):
        circular_correct({7: []})
