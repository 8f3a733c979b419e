"""The EvalAI normaliser, and TextVQA's accuracy.

Source: `EvalAIAnswerProcessor` and `TextVQAAccuracyEvaluator` of github.com/facebookresearch/mmf, which LLaVA carries
as llava/eval/m4c_evaluator.py.
"""

from collections.abc import Sequence

from llava_mocle.evaluation.metrics.vqa import digits_and_articles, soft_accuracy, strip_punctuation


def normalize_evalai(text: str) -> str:
    """The form in which TextVQA compares answers; LLaVA also writes it into its VQAv2 and VizWiz uploads.

    VQA's normaliser (`normalize_vqa`) after a step of its own, which makes three differences:

    - commas and question marks are dropped first, wherever they stand: "red,blue" is "redblue", not "red blue";
    - so no comma between digits is left that would drop the other marks: "1,000-2" is "1000 2", not "10002";
    - "'s" is cut off as a word: "joe's" is "joe 's", and "let's" is "let 's".

    >>> normalize_evalai("Joe's 1,000 x-rays?")
    "joe 's 1000 x rays"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return digits_and_articles(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def textvqa_accuracy(answer: str, annotations: Sequence[str]) -> float:
    """`soft_accuracy` under `normalize_evalai`; TextVQA has ten annotators a question.

    Raises:
        ValueError: no annotations.
    """
    return soft_accuracy(answer, annotations, normalize_evalai)
