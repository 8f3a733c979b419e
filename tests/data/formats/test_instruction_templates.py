"""Table 10's templates, against the paper's own examples (Table 16 and section 4.3)."""

import doctest

import pytest

from llava_mocle.data.formats import instruction_templates
from llava_mocle.data.formats.instruction_templates import (
    TEMPLATES,
    answer_prompt,
    caption_prompt,
    question_prompt,
)


def test_examples() -> None:
    assert doctest.testmod(instruction_templates).failed == 0


def test_counts_of_table_10() -> None:
    assert {group: len(set(templates)) for group, templates in TEMPLATES.items()} == {
        "CAP": 13,
        "OCRCAPS": 13,
        "VQA": 10,
        "VQAMC": 10,
        "VQG": 6,
    }


def test_each_template_has_its_field_once() -> None:
    fields = {"CAP": "", "OCRCAPS": "", "VQA": "{Question}", "VQAMC": "{Question}", "VQG": "{Answer}"}
    for group, templates in TEMPLATES.items():
        for template in templates:
            assert template.count("{") == template.count("}") == bool(fields[group])
            assert fields[group] in template
            assert template == template.strip()


# Instructions that the paper prints in its Table 16; what it was asked is on the left.
@pytest.mark.parametrize(
    ("question", "options", "instruction"),
    [
        ("what are the large pieces of cake supposed to be?", "", "what are the large pieces of cake supposed to be?"),
        ("what is the food in?", "", "what is the food in? A short answer to the question is"),
        ("how many donuts are there?", "", "Question: how many donuts are there?"),
        ("what is surrounding the cat?", "", "Q: what is surrounding the cat? A:"),
        (
            "what color is the cat?",
            "",
            "Based on the image, respond to this question with a short answer: what color is the cat?. Answer:",
        ),
        (
            "how many engines are visible?",
            "",
            'What is the answer to the following question? "how many engines are visible?"',
        ),
        (
            "what does this person have on her teeth?",
            "braces candy food gum",
            "Q: what does this person have on her teeth? Options: (a) braces (b) candy (c) food (d) gum, A:",
        ),
        (
            "what is likely her favorite animal?",
            "cat dog pig sheep",
            "Question: what is likely her favorite animal? Options: (a) cat (b) dog (c) pig (d) sheep, Short answer:",
        ),
        (
            "what is the man in red shirt doing?",
            "laughing crying singing yelling",
            "what is the man in red shirt doing? Options: (a) laughing (b) crying (c) singing (d) yelling",
        ),
    ],
)
def test_instructions_of_table_16(question: str, options: str, instruction: str) -> None:
    made = [question_prompt(template, question, options.split()) for template in TEMPLATES["VQA"]]
    assert made.count(instruction) == 1


def test_options_before_a_mark_of_the_template_get_no_comma() -> None:
    made = [question_prompt(template, "is it?", ["yes", "no"]) for template in TEMPLATES["VQAMC"]]
    assert made[6] == (
        "Based on the image, respond to this question with a short answer: is it? Options: (a) yes (b) no. Answer:"
    )
    assert made[8] == 'What is the answer to the following question? "is it? Options: (a) yes (b) no"'


def test_a_question_may_look_like_a_field() -> None:
    assert question_prompt("Q: {Question} A:", "what is {Question}?") == "Q: what is {Question}? A:"
    assert answer_prompt("The answer is: {Answer}.", "{Answer} {} {0}") == "The answer is: {Answer} {} {0}."


def test_caption_after_ocr_tokens() -> None:
    # Section 4.3 of the paper has the form "OCR tokens: {}. Write a description for the photo".
    assert caption_prompt("Write a description for the photo.", ["é", "2"]) == (
        "OCR tokens: é, 2. Write a description for the photo."
    )
    assert caption_prompt("A photo of", []) == "OCR tokens: . A photo of"
    assert caption_prompt("A photo of") == "A photo of"


def test_ocr_tokens_beyond_thirty_are_left_out() -> None:
    tokens = [str(number) for number in range(40)]
    assert caption_prompt("A photo of", tokens) == f"OCR tokens: {', '.join(tokens[:30])}. A photo of"
