"""Yes/no answers: the two parsers, and the metrics of two classes."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def yes_no_pope(text: str) -> str:
    """POPE's reading, "yes" or "no": "no" where the first sentence has one of the words No, no, not; else "yes".

    Source: LLaVA's llava/eval/eval_pope.py. The sentence ends at the first period; commas are dropped; words are cut at
    single spaces; the case counts, so "NO" and "Not" are "yes", and so are "nothing", "No!" and an empty answer.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if not {"No", "no", "not"}.isdisjoint(words) else "yes"


def yes_no_mme(text: str) -> str | None:
    """MME's reading: "yes" or "no" where it stands in the first four characters (only one of them fits in); else None.

    Source: `parse_pred_ans` of MME's eval_tool/calculation.py. Letters count, not words: "Nothing" and
    "I know" ("i kn") are "no" and None. The text is taken as it is: the space in front of " yes" counts.
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def f1(truth: ArrayLike, said: ArrayLike) -> float:
    """Harmonic mean of precision and recall of yes, as POPE reports it; 0.0 where nothing is yes on either side.

    Args:
        truth, said: (N,), True for yes.

    Raises:
        ValueError: the two have different lengths.
    """
    real, answered = np.asarray(truth, dtype=bool), np.asarray(said, dtype=bool)
    if real.shape != answered.shape:
        raise ValueError(f"{real.size} labels for {answered.size} answers, expected one label an answer")
    yeses = int(np.count_nonzero(real)) + int(np.count_nonzero(answered))
    return 2 * int(np.count_nonzero(real & answered)) / yeses if yeses else 0.0


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; HatefulMemes (Kiela et al., 2020) with P(yes).

    nan where all items are of one class, or there are none.

    Raises:
        ValueError: the two have different lengths, or a score is nan.
    """
    real, values = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=np.float64)
    if real.shape != values.shape:
        raise ValueError(f"{real.size} labels for {values.size} scores, expected one label a score")
    if np.isnan(values).any():
        raise ValueError(f"score {int(np.isnan(values).argmax())} is nan, expected a number for every item")
    if real.all() or not real.any():
        return math.nan
    from scipy.stats import rankdata  # slow to import, and only one benchmark needs it

    # The Mann-Whitney statistic: the same area, quick enough for a bootstrap, and infinite scores are allowed.
    yes = int(real.sum())
    above = rankdata(values)[real].sum() - yes * (yes + 1) / 2
    return float(above / (yes * (real.size - yes)))


def yes_probability(yes: Sequence[float], no: Sequence[float]) -> float:
    """P(yes) against P(no), in [0, 1], from log-likelihoods of the texts that mean yes and of those that mean no.

    The texts of a side are added up ("yes" and "true"). HatefulMemes' score; above 0.5 is VSR's "true". nan where all
    likelihoods are 0.

    Raises:
        ValueError: a side is empty.
    """
    if not yes or not no:
        raise ValueError(f"{len(yes)} texts for yes and {len(no)} for no, expected at least one of each")
    top = max(*yes, *no)
    if top == -math.inf:
        return math.nan
    for_yes, for_no = (math.fsum(math.exp(value - top) for value in side) for side in (yes, no))
    return for_yes / (for_yes + for_no)
