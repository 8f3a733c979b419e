import itertools
import math
import random

import numpy as np
import pytest

from llava_mocle.evaluation.metrics.cider import cider_d, cider_d_tokens

VOCABULARY = "a man woman dog on the red blue bike rides sits with two and of street ball in park"
WORDS = VOCABULARY.split()


def paper_cider_d(candidates, references):
    """CIDEr-D straight from the paper's equations: dense TF-IDF vectors over the whole vocabulary of n-grams."""
    images = list(candidates)
    total = np.zeros(len(images))
    for n in range(1, 5):

        def count(words, n=n):
            return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

        texts = itertools.chain(candidates.values(), *references.values())
        index = {gram: i for i, gram in enumerate(sorted({gram for words in texts for gram in count(words)}))}
        frequency = np.zeros(len(index))
        for image in images:
            for gram in {gram for words in references[image] for gram in count(words)}:
                frequency[index[gram]] += 1
        idf = np.log(len(images) / np.maximum(frequency, 1))

        def vector(words, index=index, idf=idf, count=count):
            tf = np.zeros(len(index))
            for gram in count(words):
                tf[index[gram]] += 1
            return tf * idf

        for i, image in enumerate(images):
            said = vector(candidates[image])
            for words in references[image]:
                meant = vector(words)
                norms = np.linalg.norm(said) * np.linalg.norm(meant)
                cosine = np.minimum(said, meant) @ meant / norms if norms else 0.0
                penalty = math.exp(-((len(candidates[image]) - len(words)) ** 2) / (2 * 6**2))
                total[i] += 10 * penalty * cosine / len(references[image]) / 4
    return dict(zip(images, total, strict=True))


def generated_set(seed, longest=14):
    """A few images, with empty captions, repeated words, words of no reference, and captions equal to a reference."""
    rng = random.Random(seed)

    def caption():
        return [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, longest]))]

    references = {i: [caption() for _ in range(rng.randint(1, 5))] for i in range(rng.randint(1, 6))}
    candidates = {
        i: rng.choice([caption(), rng.choice(refs), [*caption(), "unseen"]]) for i, refs in references.items()
    }
    return candidates, references


def test_against_the_equations():
    """200 generated sets, float64; measured worst difference 2e-15."""
    scored = 0
    for seed in range(200):
        candidates, references = generated_set(seed)
        mean, scores = cider_d_tokens(candidates, references)
        expected = paper_cider_d(candidates, references)
        assert scores == pytest.approx(expected, abs=1e-9), seed
        assert mean == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
        scored += sum(score > 0 for score in scores.values())
    assert scored > 200


def test_against_pycocoevalcap():
    """The reference package on the same tokens: 200 generated sets within 1e-6."""
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    compared = 0
    for seed in range(210):
        candidates, references = generated_set(seed)
        if not any(itertools.chain(*references.values())):
            continue  # without any n-gram the package raises
        mean, scores = cider_d_tokens(candidates, references)
        official_mean, official = scorer.compute_score(
            {i: [" ".join(words) for words in refs] for i, refs in references.items()},
            {i: [" ".join(words)] for i, words in candidates.items()},
        )
        assert mean == pytest.approx(official_mean, abs=1e-6), seed
        assert list(scores.values()) == pytest.approx(list(official), abs=1e-6), seed
        compared += 1
    assert compared >= 200


def test_by_hand():
    # Two images without a common n-gram, captions equal to their only reference: cosine 1 for all four n.
    captions = {1: "one two three four five", 2: "six seven eight nine ten"}
    assert cider_d(captions, {key: [text] for key, text in captions.items()}) == (
        pytest.approx(10.0),
        {1: pytest.approx(10.0), 2: pytest.approx(10.0)},
    )
    # "red dog" against "red cat": idf is log 2 for all, so the unigram cosine is 1/2, the bigram's 0; 10 * 0.5 / 4.
    mean, scores = cider_d({1: "red dog", 2: "x"}, {1: ["red cat"], 2: ["blue bird"]})
    assert scores == {1: pytest.approx(1.25), 2: 0.0}
    assert mean == pytest.approx(0.625)
    # The same with six words more in the reference: unigram cosine 1 / sqrt(2 * 8), penalty exp(-36 / 72).
    _, scores = cider_d({1: "red dog", 2: "x"}, {1: ["red cat a b c d e f"], 2: ["blue bird"]})
    assert scores[1] == pytest.approx(10 / 4 * math.exp(-0.5) / 4)


def test_repeating_a_word_is_clipped():
    references = {1: ["red cat"], 2: ["blue bird"]}
    once = cider_d({1: "red", 2: "x"}, references)[1][1]
    # min(3, 1) * 1 over norms 3 and sqrt(2): a third of the cosine. One word off either way.
    thrice = cider_d({1: "red red red", 2: "x"}, references)[1][1]
    assert thrice == pytest.approx(once / 3)


def test_edges():
    # One image: every n-gram is in all images, all weights are 0.
    assert cider_d({1: "a dog"}, {1: ["a dog"]}) == (0.0, {1: 0.0})
    assert cider_d({1: "", 2: "cat"}, {1: ["dog"], 2: ["cat"]})[1][1] == 0.0
    assert math.isnan(cider_d({}, {})[0])
    with pytest.raises(ValueError, match="image 2 has a caption or references, but not both"):
        cider_d({1: "dog", 2: "cat"}, {1: ["dog"]})
    with pytest.raises(ValueError, match="image 'x' has no reference"):
        cider_d({"x": "dog"}, {"x": []})
