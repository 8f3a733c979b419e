"""What an instruction asks, and the same in other words."""

import pytest

from llava_mocle.data.formats.instruction_templates import TEMPLATES, answer_prompt, caption_prompt, question_prompt
from llava_mocle.data.formats.paraphrases import Content, content_of


@pytest.mark.parametrize("template", TEMPLATES["VQA"])
def test_a_question_is_found_in_every_template(template):
    content = content_of(question_prompt(template, "Where is the cat?"))
    assert content == Content("VQA", "Where is the cat?")


@pytest.mark.parametrize("template", TEMPLATES["VQG"])
def test_an_answer_is_found_in_every_template(template):
    assert content_of(answer_prompt(template, "a red kite")) == Content("VQG", "a red kite")


@pytest.mark.parametrize("template", TEMPLATES["CAP"])
def test_a_request_for_a_caption_is_found(template):
    assert content_of(caption_prompt(template)) == Content("CAP", "")
    assert content_of(caption_prompt(template, ["STOP", "a. b"])) == Content("CAP", "OCR tokens: STOP, a. b. ")


def test_rows_without_a_template():
    assert content_of("Is it red?\nAnswer with yes or no.") == Content("VQA", "Is it red?\nAnswer with yes or no.")
    assert content_of("Describe the scene in detail.") is None
    assert content_of("") is None


def test_paraphrases_are_the_templates_of_the_kind():
    texts = Content("VQA", "Where?").paraphrases()
    assert texts[:4] == ["Where?", "Question: Where?", "Where? A short answer to the question is", "Q: Where? A:"]
    assert len(set(texts)) == len(TEMPLATES["VQA"]) == 10
    assert all(content_of(text) == Content("VQA", "Where?") for text in texts)
    captions = Content("CAP", "OCR tokens: STOP. ").paraphrases()
    assert captions == [caption_prompt(template, ["STOP"]) for template in TEMPLATES["CAP"]]
    assert len(Content("VQG", "yes").paraphrases()) == 6
