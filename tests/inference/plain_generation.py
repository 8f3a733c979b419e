"""Generation written out by hand: no cache, no padding, no `generate`; log-probabilities in float64."""

from collections.abc import Callable, Sequence

from torch import Tensor

Logits = Callable[[list[int]], Tensor]  # the new tokens so far -> logits (V,) of the next one


def plain_greedy(logits_of: Logits, end: int, max_new: int, repetition_penalty: float = 1.0) -> list[int]:
    """The new tokens, the end included."""
    new: list[int] = []
    while len(new) < max_new and end not in new:
        new.append(int(_punished(logits_of(new).double(), new, repetition_penalty).argmax()))
    return new


def plain_beams(
    logits_of: Logits,
    end: int,
    max_new: int,
    num_beams: int,
    length_penalty: float = 1.0,
    repetition_penalty: float = 1.0,
) -> list[int]:
    """The best beam's new tokens, the end included.

    As transformers searches: of twice as many candidates as beams, those among the first `num_beams` that end are
    finished, and the first that do not end go on. Over when no running beam can be better than the worst finished one.
    """
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, max_new + 1):
        candidates = []
        for total, new in running:
            likelihoods = _punished(logits_of(new).double().log_softmax(-1), new, repetition_penalty)
            values, tokens = likelihoods.topk(2 * num_beams)
            candidates += [
                (total + value, [*new, token]) for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
            ]
        candidates = sorted(candidates, key=lambda pair: -pair[0])[: 2 * num_beams]
        over = [(total, new) for total, new in candidates[:num_beams] if new[-1] == end or length == max_new]
        finished += [(total / length**length_penalty, new) for total, new in over]
        finished = sorted(finished, key=lambda pair: -pair[0])[:num_beams]
        running = [pair for pair in candidates if pair[1][-1] != end][:num_beams]
        if len(finished) == num_beams and running[0][0] / length**length_penalty <= finished[-1][0]:
            break
    return finished[0][1]


def _punished(scores: Tensor, new: Sequence[int], penalty: float) -> Tensor:
    scores = scores.clone()
    for token in set(new):
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    return scores
