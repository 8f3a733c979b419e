import pytest

from llava_mocle.evaluation.prompt_styles import caption_request, check_style, short_question


def test_both_styles():
    assert short_question("Is it?", "llava") == "Is it?\nAnswer the question using a single word or phrase."
    assert short_question("Is it?", "instructblip") == "Question: Is it? Short answer:"
    assert caption_request("llava") == "Provide a one-sentence caption for the provided image."
    assert caption_request("instructblip") == "A short image description:"


@pytest.mark.parametrize("call", [check_style, caption_request, lambda style: short_question("Is it?", style)])
def test_another_style(call):
    with pytest.raises(ValueError, match="'blip': expected one of llava, instructblip"):
        call("blip")
