"""Multiple choice: prompts, the right option, and reading what was chosen."""

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.iconqa import IconQA
from llava_mocle.evaluation.tasks.shared.multiple_choice import choice_item, choice_question, gold_index


def item(options=("cat", "", "dog"), answer="C", prompts="llava"):
    return choice_item(1, "Which?", options, answer, images=(), place="here", prompts=prompts)


def test_prompts_leave_out_options_without_text():
    assert choice_question("Which?", ["cat", "", "dog"], "llava") == (
        "Which?\nA. cat\nC. dog\nAnswer with the option's letter from the given choices directly."
    )
    ranked = item(prompts="instructblip").question
    assert ranked.prompt == "Question: Which? Options: (a) cat (c) dog. Short answer:"
    assert ranked.candidates == ("cat", "dog")
    assert item().question.candidates == ()
    with pytest.raises(ValueError, match="prompt style 'other'"):
        choice_question("Which?", ["cat"], "other")


@pytest.mark.parametrize(("answer", "index"), [("A", 0), ("C", 2), (0, 0), (2, 2)])
def test_the_right_option_by_letter_or_index(answer, index):
    assert gold_index(answer, ["cat", "", "dog"], "here") == index


@pytest.mark.parametrize("answer", ["B", "D", "cat", "", 1, 3, -1, True, None])
def test_an_answer_that_is_no_option(answer):
    with pytest.raises(DataError, match=r"here: the answer is .* with 2 options"):
        gold_index(answer, ["cat", "", "dog"], "here")
    with pytest.raises(DataError, match="with 1 options"):
        gold_index(0, ["cat", ""], "here")


@pytest.mark.parametrize(
    ("text", "index"), [("C", 2), ("(c)", 2), ("The answer is A", 0), ("a dog.", 2), ("bird", None), ("", None)]
)
def test_texts(text, index):
    assert IconQA().read(item(), {"text": text}) == index


@pytest.mark.parametrize(("scores", "index"), [([-1, -2], 0), ([-2, -1], 2), ([-1, -1], 0)])
def test_the_likeliest_and_of_equals_a_wrong_one(scores, index):
    """The right one is C, so A wins a tie."""
    assert IconQA().read(item(prompts="instructblip"), {"text": "", "metadata": {"scores": scores}}) == index


def test_options_of_the_same_text_are_the_same_choice():
    same = item(options=("dog", "cat", "dog"))
    assert [IconQA().read(same, {"text": letter}) for letter in "ABC"] == [2, 1, 2]
    assert IconQA().right([same] * 3, [2, 1, None]) == [1.0, 0.0, 0.0]
