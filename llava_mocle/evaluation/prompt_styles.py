"""The prompts that several benchmarks share, in LLaVA's style and in that of the paper's Table 11."""

PROMPT_STYLES = ("llava", "instructblip")
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."


def check_style(prompts: str) -> None:
    """Raises ValueError where `prompts` is none of `PROMPT_STYLES`."""
    if prompts not in PROMPT_STYLES:
        raise ValueError(f"prompt style {prompts!r}: expected one of {', '.join(PROMPT_STYLES)}")


def short_question(question: str, prompts: str) -> str:
    """The prompt of a question with a short answer."""
    check_style(prompts)
    return question + SHORT_ANSWER if prompts == "llava" else f"Question: {question} Short answer:"


def caption_request(prompts: str) -> str:
    """The prompt for one caption. LLaVA's is that of its training rows with captions."""
    check_style(prompts)
    llava = prompts == "llava"
    return "Provide a one-sentence caption for the provided image." if llava else "A short image description:"
