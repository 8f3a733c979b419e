"""How MMBench's own evaluation reads an option from an answer, before any language model is asked.

Source: `can_infer` of github.com/open-compass/VLMEvalKit, vlmeval/utils/matching_util.py (arXiv 2307.06281, section 4),
in two versions. 2024 is that of the whole year 2024 (still at commit 18fc37a), which published numbers were made with.
2025 is the later one: a letter counts only among the last words, and a long answer contains no text. (Its first form,
commit 134b4ea, had the test of the place the wrong way round.)
"""

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from types import MappingProxyType

# Marks that become spaces before the answer is cut into words.
_WORD_EDGES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_NO_REPLY = "Failed to obtain answer via API"
_NONE = "Z"  # the letter that stands for none of the options
_LAST_WORDS = 4


def mmbench_option_2024(text: str, options: Sequence[str]) -> int | None:
    """The option that an answer means to VLMEvalKit of 2024, numbered from 0; None where it means none.

    In this order. One of four refusals is no option. A capital letter that is the only option's among the words is that
    option ("The answer is A"; the evaluation refuses an "A" among more than three words in its verbose mode alone). "Z"
    among the words without an option's letter is none. Then the only option whose text the answer contains, case
    aside, is meant: "Not visible" contains "no".

    Args:
        options: their texts in the order of the letters; one without text is no candidate.
    """
    return _option(text, options, letter_among_the_last=False, long_answers_hold_no_text=False)


def mmbench_option_2025(text: str, options: Sequence[str]) -> int | None:
    """The same for VLMEvalKit of 2025, in two points stricter.

    A letter counts only where its first place is among the last four words. An answer that is more than twice as long
    as all the options' texts together contains none of them.
    """
    return _option(text, options, letter_among_the_last=True, long_answers_hold_no_text=True)


MATCHERS: Mapping[str, Callable[[str, Sequence[str]], int | None]] = MappingProxyType(
    {"2024": mmbench_option_2024, "2025": mmbench_option_2025}
)


def _option(
    text: str, options: Sequence[str], *, letter_among_the_last: bool, long_answers_hold_no_text: bool
) -> int | None:
    candidates = {letter: option for letter, option in zip(ascii_uppercase, options, strict=False) if option}
    if _NO_REPLY not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return None
        words = text.translate(_WORD_EDGES).split()
        named = [letter for letter in candidates if letter in words]
        if not named and _NONE in words:
            return None
        if len(named) == 1 and (not letter_among_the_last or words.index(named[0]) >= len(words) - _LAST_WORDS):
            return ascii_uppercase.index(named[0])
    lowered = text.lower()
    if long_answers_hold_no_text and len(lowered) > 2 * sum(map(len, candidates.values())):
        return None
    contained = [letter for letter, option in candidates.items() if option.lower() in lowered]
    return ascii_uppercase.index(contained[0]) if len(contained) == 1 else None
