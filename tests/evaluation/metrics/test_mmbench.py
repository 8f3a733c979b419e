"""MMBench's matcher: a table worked from the official text, and that text step by step beside our code."""

import random

import pytest

from llava_mocle.evaluation.metrics.mmbench import MATCHERS

CITIES = ["Paris", "New York", "Rome", "Bern"]
TWO, THREE = CITIES[:2], CITIES[:3]
YES_NO = ["yes", "no"]
SHORT = ["cats", "dogs", "seahors"]

# (answer, options, letter of 2024, letter of 2025); "" is none.
OFFICIAL = [
    # A letter alone, in front, or in a sentence, whichever it is and however many options there are.
    *((f"{letter}", CITIES[:n], letter, letter) for n in (2, 3, 4) for letter in "ABCD"[:n]),
    *((f"The answer is {letter}", CITIES[:n], letter, letter) for n in (2, 3, 4) for letter in "ABCD"[:n]),
    *((f"The answer is {letter}.", CITIES[:n], letter, letter) for n in (2, 3, 4) for letter in "ABCD"[:n]),
    ("(B) New York", CITIES, "B", "B"),
    ("D:Bern", CITIES, "D", "D"),
    # "A" is a letter in a long sentence too.
    ("A city on a river", CITIES, "A", ""),
    ("A dog it is", ["cat", "dog"], "A", "A"),
    ("A trip to Rome today", CITIES, "A", "C"),
    ("It is A", CITIES, "A", "A"),
    # 2025: the letter's first place has to be among the last four words, else texts decide.
    ("B is what I see here", CITIES, "B", ""),
    ("B is the one here", CITIES, "B", ""),
    ("B is the one", CITIES, "B", "B"),
    ("B because of the B", CITIES, "B", ""),
    ("B: it shows all of New York", CITIES, "B", "B"),
    # No letter: lower case, inside words, beyond the options, of an option without text.
    ("b", CITIES, "", ""),
    ("BC", CITIES, "", ""),
    ("E", CITIES, "", ""),
    ("C", TWO, "", ""),
    ("B", ["cat", "", "dog"], "", ""),
    ("C", ["cat", "", "dog"], "C", "C"),
    # Two letters: the texts decide.
    ("A or B", CITIES, "", ""),
    ("Not A but C: Rome", CITIES, "C", "C"),
    # Texts, case aside, anywhere in the answer, letters inside words too.
    ("new york", CITIES, "B", "B"),
    ("It is Bern, of course", CITIES, "D", "D"),
    ("Rome and Paris", CITIES, "", ""),
    ("Oslo", THREE, "", ""),
    ("a black cat", ["cat", "black cat"], "", ""),
    ("a cat", ["cat", "black cat"], "A", "A"),
    ("3", ["1", "2", "3"], "C", "C"),
    ("x", ["", "x"], "B", "B"),
    ("\u6771\u4eac\u3067\u3059", ["\u5927\u962a", "\u6771\u4eac"], "B", "B"),
    # "no" is in "not"; 11 characters are more than twice the 5 of both options.
    ("Not visible", YES_NO, "B", ""),
    ("Not clear", YES_NO, "B", "B"),
    ("I know", YES_NO, "B", "B"),
    ("this is about cats and not hats", SHORT, "A", ""),  # 31 characters against 2 * 15
    ("this is about cats and no hats", SHORT, "A", "A"),  # 30
    # "Z" is none of the options, whatever follows; with a letter beside it, it is a word.
    ("Z", CITIES, "", ""),
    ("Z, not Rome", CITIES, "", ""),
    ("A to Z", CITIES, "A", "A"),
    # Refusals, and an answer that never came.
    ("Cannot determine the answer. A", CITIES, "", ""),
    ("I'm sorry, but without the image provided I say Rome", CITIES, "", ""),
    ("Failed to obtain answer via API. A", CITIES, "", ""),
    ("Failed to obtain answer via API: Rome", CITIES, "C", "C"),  # 37 characters against 2 * 21
    ("", CITIES, "", ""),
]


@pytest.mark.parametrize(("text", "options", "in_2024", "in_2025"), OFFICIAL)
def test_the_official_results(text, options, in_2024, in_2025):
    for version, expected in (("2024", in_2024), ("2025", in_2025)):
        index = "ABCDEFGH".index(expected) if expected else None
        assert MATCHERS[version](text, options) == index, version
        assert official(text, options, version) == (expected or "Z"), version


def official(answer, options, version):
    """`can_infer` with the steps of its source: first the letter, then the text; "Z" where there is none."""
    choices = {letter: option for letter, option in zip("ABCDEFGH", options, strict=False) if option != ""}
    found = letter_of(answer, choices, version) or text_of(answer, choices, version)
    return found or "Z"


def letter_of(answer, choices, version):
    if "Failed to obtain answer via API" in answer:
        return False
    refusals = ("Sorry, I can't help with images of people yet.", "I can't process this file.")
    refusals += ("I'm sorry, but without the image provided", "Cannot determine the answer")
    if any(refusal in answer for refusal in refusals):
        return "Z"
    for mark in ".()[],:;!*#{}":
        answer = answer.replace(mark, " ")
    words = answer.split()
    count = len([letter for letter in choices if letter in words])
    if count == 1:
        for letter in choices:
            if letter in words and (version == "2024" or words.index(letter) > len(words) - 5):
                return letter
    elif count == 0 and "Z" in words:
        return "Z"
    return False


def text_of(answer, choices, version):
    if version == "2025" and len(answer.lower()) > 2 * sum(len(option) for option in choices.values()):
        return False
    inside = [letter for letter, option in choices.items() if option.lower() in answer.lower()]
    return inside[0] if len(inside) == 1 else False


@pytest.mark.parametrize("version", MATCHERS)
def test_any_answer_as_the_source_reads_it(version):
    rng = random.Random(0)
    words = ["A", "B", "C", "Z", "a", "b", "The", "answer", "is", "yes", "No,", "(B)", "A.", "not", "Rome", "E"]
    sets = [YES_NO, CITIES, ["yes", "", "no"], ["Rome", "a b"], ["A", "B"]]
    for _ in range(2000):
        text = " ".join(rng.choice(words) for _ in range(rng.randrange(8)))
        options = rng.choice(sets)
        index = MATCHERS[version](text, options)
        found = "Z" if index is None else "ABCDEFGH"[index]
        assert found == official(text, options, version), (text, options)
