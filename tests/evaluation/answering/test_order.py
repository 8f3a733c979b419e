"""Batches of one cluster and like lengths."""

from pathlib import Path

from llava_mocle.evaluation.answering.order import batches
from llava_mocle.evaluation.answering.question import Question
from tests.evaluation.fakes import FakePredictor


class Routed(FakePredictor):
    """Routes by the first letter."""

    def routes(self, requests):
        return [ord(request.prompt[0]) - ord("a") for request in requests]


def questions(*prompts: str) -> list[Question]:
    return [Question(number, prompt) for number, prompt in enumerate(prompts)]


def test_full_batches_of_one_cluster_come_first_and_the_rest_by_length():
    asked = questions("b", "aaaa", "a", "aaa", "bbbbbb", "aa", "aaaaa", "ccc", "cccc")
    # a: 5, 4, 3, 2, 1 letters; b: 6, 1; c: 4, 3. Left over: the a of 1 letter.
    assert batches(Routed(), asked, 2) == [[1, 6], [3, 5], [0, 4], [7, 8], [2]]
    # a: three of five; left over, by length: b 6, c 4, c 3, a 2, b 1, a 1 (the first of equals first).
    assert batches(Routed(), asked, 3) == [[1, 3, 6], [4, 7, 8], [0, 2, 5]]


def test_a_job_of_one_batch_is_not_routed_beforehand():
    predictor = Routed()
    predictor.routes = None
    assert batches(predictor, questions("b", "a"), 2) == [[0, 1]]
    assert batches(predictor, [], 2) == []


def test_images_count_more_than_words():
    image = Path("a.png")
    asked = [Question(0, "a long question"), Question(1, "a", (image,)), Question(2, "a?", (image, image))]

    class Unrouted(FakePredictor):
        def routes(self, requests):
            return [None] * len(requests)

    assert batches(Unrouted(), asked, 1) == [[2], [1], [0]]
