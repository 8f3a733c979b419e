"""Exact match, right or wrong."""

from llava_mocle.evaluation.metrics.vqa import normalize_vqa


def gqa_match(answer: str, reference: str) -> float:
    """GQA: 1.0 where the answer, in lower case and without periods at its end, is the reference.

    Source: LLaVA's scripts/convert_gqa_for_eval.py, whose output GQA's own eval.py compares letter by letter.
    """
    said = answer.strip().rstrip(".").lower()
    return float(bool(said) and said == reference.strip().lower())


def vqa_match(answer: str, reference: str) -> float:
    """MSVD-QA, MSRVTT-QA: 1.0 where both are the same, non-empty text after VQA's normaliser.

    Top-1 accuracy over an answer vocabulary is the benchmarks' metric (Xu et al., 2017); generated text needs a
    normaliser, for which VQA's is taken.
    """
    said = normalize_vqa(answer)
    return float(bool(said) and said == normalize_vqa(reference))
