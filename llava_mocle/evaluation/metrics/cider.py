"""CIDEr-D, the captioning metric of COCO's evaluation.

Source: Vedantam, Zitnick, Parikh, CIDEr (arXiv 1411.5726), with CIDEr-D's clipping and length penalty, as
github.com/tylin/coco-caption computes it (pycocoevalcap/cider).
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from llava_mocle.evaluation.metrics.caption_tokens import caption_tokens

_ORDERS = 4
_SIGMA = 6.0
_Gram = tuple[str, ...]
Id = TypeVar("Id", bound=Hashable)


class _Caption(NamedTuple):
    """TF-IDF weights of the n-grams, one dict an order, with their norms, and the number of words."""

    weights: list[dict[_Gram, float]]
    norms: list[float]
    words: int


def cider_d(candidates: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> tuple[float, dict[Id, float]]:
    """CIDEr-D of captions, cut into words by `caption_tokens`; see `cider_d_tokens`."""
    return cider_d_tokens(
        {key: caption_tokens(text) for key, text in candidates.items()},
        {key: [caption_tokens(text) for text in texts] for key, texts in references.items()},
    )


def cider_d_tokens(
    candidates: Mapping[Id, Sequence[str]], references: Mapping[Id, Sequence[Sequence[str]]]
) -> tuple[float, dict[Id, float]]:
    """CIDEr-D of captions given as words.

    For n = 1 to 4, the clipped cosine of TF-IDF vectors of n-grams, times exp(-(difference in words)^2 / (2 * 6^2)),
    averaged over the references and over n, times 10. An n-gram's document frequency is the number of images with it
    in any reference, so the score of an image depends on the whole set; with a single image all weights are 0.

    Args:
        candidates: image -> words of the caption.
        references: image -> words of every reference.

    Returns:
        The mean over images, and the score of each, in [0, 10]. Tables show the mean times 100.

    Raises:
        ValueError: the two have different images, or an image has no reference.
    """
    if candidates.keys() != references.keys():
        odd = next(iter(candidates.keys() ^ references.keys()))
        raise ValueError(f"image {odd!r} has a caption or references, but not both")
    grams = {key: [_grams(words) for words in captions] for key, captions in references.items()}
    frequency: Counter[_Gram] = Counter()
    for key, captions in grams.items():
        if not captions:
            raise ValueError(f"image {key!r} has no reference caption, expected one or more")
        frequency.update(set().union(*captions))
    log_images = math.log(len(grams)) if grams else 0.0
    scores = {}
    for key, captions in grams.items():
        candidate = _weigh(_grams(candidates[key]), frequency, log_images)
        similarities = [_similarity(candidate, _weigh(caption, frequency, log_images)) for caption in captions]
        scores[key] = 10 * math.fsum(similarities) / len(similarities)
    return (math.fsum(scores.values()) / len(scores) if scores else math.nan), scores


def _grams(words: Sequence[str]) -> Counter[_Gram]:
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def _weigh(grams: Counter[_Gram], frequency: Counter[_Gram], log_images: float) -> _Caption:
    weights: list[dict[_Gram, float]] = [{} for _ in range(_ORDERS)]
    for gram, count in grams.items():
        weights[len(gram) - 1][gram] = count * (log_images - math.log(max(1, frequency[gram])))
    norms = [math.hypot(*order.values()) for order in weights]
    return _Caption(weights, norms, sum(count for gram, count in grams.items() if len(gram) == 1))


def _similarity(candidate: _Caption, reference: _Caption) -> float:
    penalty = math.exp(-((candidate.words - reference.words) ** 2) / (2 * _SIGMA**2))
    cosines = 0.0
    for said, meant, said_norm, meant_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        if said_norm and meant_norm:
            dot = math.fsum(min(weight, meant[gram]) * meant[gram] for gram, weight in said.items() if gram in meant)
            cosines += dot / (said_norm * meant_norm)
    return penalty * cosines / _ORDERS
