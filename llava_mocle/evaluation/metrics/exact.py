"""Exact match, right or wrong."""

from llava_mocle.evaluation.metrics.vqa import normalize_vqa


def gqa_answer(text: str) -> str:
    """The form in which GQA's answers are uploaded and compared: lower case, without periods at the end.

    Source: LLaVA's scripts/convert_gqa_for_eval.py, whose output GQA's own eval.py compares letter by letter.

    >>> gqa_answer(" No.")
    'no'
    """
    return text.strip().rstrip(".").lower()


def gqa_match(answer: str, reference: str) -> float:
    """GQA: 1.0 where the answer, as `gqa_answer` writes it, is the reference; an empty one is wrong."""
    said = gqa_answer(answer)
    return float(bool(said) and said == reference.strip().lower())


def vqa_match(answer: str, reference: str) -> float:
    """MSVD-QA, MSRVTT-QA: 1.0 where both are the same, non-empty text after VQA's normaliser.

    Top-1 accuracy over an answer vocabulary is the benchmarks' metric (Xu et al., 2017); generated text needs a
    normaliser, for which VQA's is taken.
    """
    said = normalize_vqa(answer)
    return float(bool(said) and said == normalize_vqa(reference))
