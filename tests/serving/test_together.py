import math

import pytest
import torch

from llava_mocle.serving.together import draw


def plain(scores, temperature, top_p):
    """Probabilities by hand, in float64: softmax, then the fewest likeliest tokens that reach top_p."""
    weights = [math.exp(score / temperature) for score in scores]
    probabilities = [weight / sum(weights) for weight in weights]
    kept, total = set(), 0.0
    for token in sorted(range(len(scores)), key=lambda token: -probabilities[token]):
        kept.add(token)
        total += probabilities[token]
        if total >= top_p:
            break
    return [p / total if token in kept else 0.0 for token, p in enumerate(probabilities)]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7), (1.0, 0.3), (1.0, 1e-6)])
def test_tokens_are_drawn_by_their_probabilities(temperature, top_p):
    scores, draws = [1.0, 0.2, -0.5, 0.9, -2.0], 4000
    generator = torch.Generator().manual_seed(0)
    tensor = torch.tensor(scores)
    counts = [0] * len(scores)
    for _ in range(draws):
        counts[draw(tensor, temperature, top_p, generator)] += 1
    for count, expected in zip(counts, plain(scores, temperature, top_p), strict=True):
        # Five standard deviations of a binomial share; what cannot be drawn never is.
        assert abs(count / draws - expected) <= 5 * math.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize("temperature", [1e-3, 1e-308, 5e-324])
def test_the_smallest_temperatures_take_the_likeliest_token(temperature):
    assert draw(torch.tensor([1.0, 20.0, 19.0]), temperature, 1.0, torch.Generator().manual_seed(0)) == 1


def test_the_seed_decides():
    tensor = torch.linspace(0, 1, 50)

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return [draw(tensor, 1.0, 1.0, generator) for _ in range(10)]

    assert drawn(1) == drawn(1) != drawn(2)
