"""Reading an option letter from a worked solution, as GeoQA answers are read.

Source: `extract_choice` of G-LLaVA's scripts/geo_acc_calculate.py (arXiv 2312.11370).
"""

import re

_STATEMENTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"Answer:([A-D])",
        r"the correct answer is option ([A-D])",
        r"option ([A-D]) is selected",
        r"the answer is option ([A-D])",
        r"the answer is \(([A-D])\)",
    )
)
_LAST_RESORT = re.compile(r"is ([A-D])")


def geoqa_letter(text: str) -> str | None:
    """The letter A to D that the text settles on; None where it states none.

    The statements are tried in order over the whole text, the first place of each: "Answer:X"; "the correct answer is
    option X"; "option X is selected"; "the answer is option X"; "the answer is (X)"; then "is X" in the last sentence.
    Letter by letter: the case counts, and "Answer: A" with a space is none. The last sentence is what stands before the
    last period, so a text without a period has none.
    """
    for statement in _STATEMENTS:
        found = statement.search(text)
        if found:
            return found.group(1)
    sentences = text.split(".")
    found = _LAST_RESORT.search(sentences[-2].strip()) if len(sentences) > 1 else None
    return found.group(1) if found else None
