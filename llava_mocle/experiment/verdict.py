"""What the numbers say in words, by rules that are fixed beforehand.

A difference is "above" another where its 95 % interval lies above 0, "below" where it lies below 0, and else the two
cannot be told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_mocle.experiment.methods import BASELINE, OURS, SINGLE_DOMAIN
from llava_mocle.experiment.statistics import Estimate, Resampled

# Where this many seeds or fewer were run, a verdict says that it rests on few.
_FEW_SEEDS = 2


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: in words.
        answer: "yes", "no" or "cannot be told".
        because: the sentence with the numbers.
    """

    question: str
    answer: str
    because: str


def verdicts(drawn: Resampled) -> list[Answer]:
    """Whether there is negative transfer, whether MoCLE wins it back, and how MoCLE stands to the other methods.

    Only what the methods that were run can answer.
    """
    answers = []
    have = drawn.tables
    if SINGLE_DOMAIN in have and BASELINE in have:
        answers.append(_negative_transfer(drawn))
        if OURS in have:
            answers.append(_won_back(drawn))
    if OURS in have:
        others = [name for name in have if name not in (OURS, SINGLE_DOMAIN)]
        answers += [_better(drawn, other) for other in others]
    return answers


def _negative_transfer(drawn: Resampled) -> Answer:
    gap = drawn.difference(SINGLE_DOMAIN, BASELINE)
    question = "Is there negative transfer in this data: do LoRAs of single domains beat one LoRA for all?"
    numbers = f"{SINGLE_DOMAIN} - {BASELINE} is {points(gap)} on average over the domains"
    by_domain = _by_domain(drawn, SINGLE_DOMAIN, BASELINE)
    if gap.above_0:
        return Answer(question, "yes", f"{numbers}, above 0. {by_domain}")
    if gap.below_0:
        return Answer(question, "no", f"{numbers}, below 0: the domains help each other here. {by_domain}")
    few = few_seeds(drawn, (SINGLE_DOMAIN, BASELINE))
    return Answer(question, "cannot be told", f"{numbers}, and 0 is inside{few}. {by_domain}")


def _won_back(drawn: Resampled) -> Answer:
    question = "Does MoCLE win it back?"
    gap, gain = drawn.difference(SINGLE_DOMAIN, BASELINE), drawn.difference(OURS, BASELINE)
    numbers = f"{OURS} - {BASELINE} is {points(gain)}"
    if not gap.above_0:
        return Answer(question, "cannot be told", f"there is no gap to recover; {numbers}, {_side(gain)}")
    share, rest = drawn.share(OURS, BASELINE, SINGLE_DOMAIN), drawn.difference(OURS, SINGLE_DOMAIN)
    whole = f"{numbers}, {_percent(share)} of the gap"
    against = f"{OURS} - {SINGLE_DOMAIN} is {points(rest)}, {_side(rest)}"
    if gain.above_0:
        return Answer(question, "yes", f"{whole}; {against}")
    if gain.below_0:
        return Answer(question, "no", f"{numbers}, below 0; {against}")
    few = few_seeds(drawn, (OURS, BASELINE))
    return Answer(
        question, "cannot be told", f"{whole}, and 0 is inside the interval of the difference{few}; {against}"
    )


def _better(drawn: Resampled, other: str) -> Answer:
    difference = drawn.difference(OURS, other)
    answer = "yes" if difference.above_0 else "no" if difference.below_0 else "cannot be told"
    return Answer(f"Is {OURS} better than {other}?", answer, f"{OURS} - {other} is {points(difference)}")


def _by_domain(drawn: Resampled, method: str, other: str) -> str:
    groups: dict[str, list[str]] = {"above": [], "below": [], "not told apart": []}
    for domain in drawn.domains:
        groups[_side(drawn.difference(method, other, domain)).removesuffix(" 0")].append(domain)
    words = [f"{side} on {', '.join(found)}" for side, found in groups.items() if found]
    return f"By domain, {method} against {other}: {'; '.join(words)}."


def few_seeds(drawn: Resampled, methods: Sequence[str]) -> str:
    """Words for a sentence, where the methods have so few seeds that an interval says little."""
    least = min(len(drawn.tables[name].seeds) for name in methods)
    if least > _FEW_SEEDS:
        return ""
    return "; it is over questions alone, as there is one seed" if least == 1 else f"; there are only {least} seeds"


def _side(estimate: Estimate) -> str:
    return "above 0" if estimate.above_0 else "below 0" if estimate.below_0 else "not told apart"


def points(estimate: Estimate) -> str:
    """A difference of scores in percentage points, with its interval."""
    if estimate.interval is None:
        return f"{100 * estimate.value:+.1f} points"
    low, high = estimate.interval
    return f"{100 * estimate.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _percent(share: Estimate) -> str:
    if share.interval is None:
        return f"{100 * share.value:.0f} %"
    low, high = share.interval
    return f"{100 * share.value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
