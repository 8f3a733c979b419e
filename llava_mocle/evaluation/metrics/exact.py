"""Exact match, right or wrong."""

from llava_mocle.evaluation.metrics.vqa import digits_and_articles, normalize_vqa, strip_punctuation


def gqa_answer(text: str) -> str:
    """The form in which GQA's answers are uploaded and compared: lower case, without periods at the end.

    Source: LLaVA's scripts/convert_gqa_for_eval.py, whose output GQA's own eval.py compares letter by letter.

    >>> gqa_answer(" No.")
    'no'
    """
    return text.strip().rstrip(".").lower()


def gqa_match(answer: str, reference: str) -> float:
    """GQA as LLaVA scores it: 1.0 where the answer, as `gqa_answer` writes it, is the reference; empty is wrong."""
    said = gqa_answer(answer)
    return float(bool(said) and said == reference.strip().lower())


def gqa_match_lavis(answer: str, reference: str) -> float:
    """GQA as LAVIS scores InstructBLIP: 1.0 where both are the same text under VQA's normaliser ("the left" is "left").

    Source: `GQATask._report_metrics` of github.com/salesforce/LAVIS, lavis/tasks/vqa.py, branch main. White space
    around a text is not taken off before the punctuation.
    """
    said, wanted = (digits_and_articles(strip_punctuation(text)) for text in (answer, reference))
    return float(bool(said) and said == wanted)


def vqa_match(answer: str, reference: str) -> float:
    """MSVD-QA, MSRVTT-QA: 1.0 where both are the same, non-empty text after VQA's normaliser.

    Top-1 accuracy over an answer vocabulary is the benchmarks' metric (Xu et al., 2017); generated text needs a
    normaliser, for which VQA's is taken.
    """
    said = normalize_vqa(answer)
    return float(bool(said) and said == normalize_vqa(reference))
