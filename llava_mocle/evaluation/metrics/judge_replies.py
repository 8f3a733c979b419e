"""What the official programs read in a judge's reply; None where they find nothing."""

import math


def review_scores(reply: str) -> tuple[float, float] | None:
    """The two scores that a review of LLaVA-Bench begins with.

    Source: `parse_score` of LLaVA's llava/eval/eval_gpt_review_bench.py. Commas of the first line become spaces; the
    line, cut at each space, has to be two numbers. So "8,9" and "8 9" are read, while "8, 9" and "8 9 " have three
    parts, of which one is empty, and are not.
    """
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return None
    first, second = map(_number, parts)
    return None if first is None or second is None else (first, second)


def correctness_grade(reply: str) -> float | None:
    """The grade from 0 to 1 that a reply for MM-Vet begins with.

    Source: `runs` of github.com/yuweihao/MM-Vet, mm-vet_evaluator.py. What stands before the first space has to be a
    number from 0 to 1: ".5", "1" and "0.5\\n" are read, " 0.7" (nothing before the space) and "0.5, as" are not.
    """
    grade = _number(reply.split(" ")[0])
    return grade if grade is not None and 0.0 <= grade <= 1.0 else None


def _number(text: str) -> float | None:
    """As `float` reads it; None where that is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
