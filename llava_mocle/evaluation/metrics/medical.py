"""VQA-RAD, SLAKE and PathVQA: recall of open answers, accuracy of closed ones; strict, or as LLaVA-Med counts.

Source of the lineage's counts: github.com/microsoft/LLaVA-Med, llava/eval/run_eval.py and eval_metrics (arXiv
2306.00890). Its scorer has faults that move numbers:

- recall counts a word of the reference as often as the *answer* repeats it;
- until December 2023, a wrong closed answer that contains "yes" or "no" was left out of the accuracy; since then it is
  wrong. The paper's numbers, and those of its followers in 2023, are by the first version;
- in both versions a closed answer without "yes" or "no" is wrong whatever the reference is, and "contains" is by
  letters: "abnormal" contains "no".

`legacy=True` and `legacy_closed_match` reproduce all of it, so that numbers compare.
"""

from collections import Counter

from llava_mocle.evaluation.metrics.vqa import digits_and_articles, normalize_vqa, strip_punctuation


def open_recall(answer: str, reference: str, legacy: bool = False) -> float:
    """The share of the reference's words that the answer has, both under VQA's normaliser.

    Strict: a word that the reference has n times counts at most n times. Legacy: R / (R + M), where R counts the
    answer's words that the reference has, repeats included, and M the reference's words that the answer lacks.
    An empty answer has 0.0. A reference that is all article or punctuation is compared by its raw words instead.
    """
    if legacy:
        return _legacy_recall(answer, reference)
    said, wanted = Counter(normalize_vqa(answer).split()), Counter(normalize_vqa(reference).split())
    if not wanted:
        said, wanted = Counter(answer.lower().split()), Counter(reference.lower().split())
    return (said & wanted).total() / wanted.total() if wanted else 0.0


def closed_match(answer: str, reference: str) -> float | None:
    """Strict score of one closed answer: 1.0 or 0.0; None where a yes/no question got no readable yes or no.

    A reference of yes or no: the answer's first word decides if it is one of the two, else the one of them that is
    among its words. Any other reference (SLAKE's are not only yes and no): equality under VQA's normaliser.
    """
    said, wanted = normalize_vqa(answer), normalize_vqa(reference)
    if wanted not in ("yes", "no"):
        return float(said == wanted) if said else None
    words = said.split()
    found = words[:1] if words[:1] in (["yes"], ["no"]) else sorted({"yes", "no"} & set(words))
    return float(found == [wanted]) if len(found) == 1 else None


def legacy_closed_match(answer: str, reference: str) -> float | None:
    """LLaVA-Med's score of one closed answer: 1.0 or 0.0; None for wrong ones that it left out until December 2023.

    Since then they are 0.0 there too.
    """
    said, wanted = _legacy_normalize(answer), _legacy_normalize(reference)
    if "yes" not in said and "no" not in said:
        return 0.0
    return 1.0 if wanted in said else None


def _legacy_normalize(text: str) -> str:
    return digits_and_articles(strip_punctuation(text.lower()))


def _legacy_recall(answer: str, reference: str) -> float:
    # Twice, as the scorer there: each time at most 32 periods go.
    said = Counter(_legacy_normalize(_legacy_normalize(answer)).split())
    wanted = Counter(_legacy_normalize(_legacy_normalize(reference)).split())
    repeats = sum(count for word, count in said.items() if word in wanted)
    missing = sum(count for word, count in wanted.items() if word not in said)
    return repeats / (repeats + missing) if repeats else 0.0
