"""A backend without a model: it routes by one word and repeats what it is told."""

import asyncio
from collections.abc import AsyncGenerator

from llava_mocle.serving.backend import Backend, ClusterView, Event, Finished, Job, Piece, Route, Usage
from llava_mocle.serving.question import Question

CLUSTERS = (
    ClusterView(0, ("What is this?",), {"layers.0.up_proj": 1, "layers.0.down_proj": 0}, 0.75, 0.25, 10.0),
    ClusterView(1, ("Which plane?", "<b>bold?</b>"), {"layers.0.up_proj": 0, "layers.0.down_proj": 0}, 0.5, 0.5, 5.0),
)
DISTANCES = (0.5, 0.625)


class StandIn(Backend):
    """Answers a question with its words, one a piece; `wait` makes it stop before the second one.

    Attributes:
        asked: the questions so far.
        go: lets waiting answers go on.
        given_up: is set when an answer is given up.
        error: raised in place of the second word.
    """

    def __init__(self, wait: bool = False) -> None:
        self.model_id = "stand_in@1"
        self.clusters = CLUSTERS
        self.asked: list[Question] = []
        self.wait = wait
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.given_up = asyncio.Event()
        self.running = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def alive(self) -> bool:
        return True

    async def route(self, question: Question) -> Job:
        self.asked.append(question)
        forced = question.cluster_id is not None
        cluster = question.cluster_id if forced else int("Which" in question.turns[0].text)
        view = self.view(cluster)
        assert view is not None
        distance = None if forced else DISTANCES[view.cluster_id]
        return Job(question, Route(cluster, distance, view.gate, view.universal_weight))

    async def generate(self, job: Job) -> AsyncGenerator[Event, None]:
        words = job.question.turns[-1].text.replace("<image>\n", "").split()
        self.running += 1
        ended = False
        try:
            for place, word in enumerate(words):
                if place == 1:
                    if self.error is not None:
                        raise self.error
                    if self.wait:
                        await self.go.wait()
                for index in range(job.question.decoding.n):
                    yield Piece(index, word if place == 0 else f" {word}")
            for index in range(job.question.decoding.n):
                yield Finished(index, "stop", near_tie=False)
            yield Usage(len(words) + 3, len(words) * job.question.decoding.n)
            ended = True
        finally:
            self.running -= 1
            if not ended:
                self.given_up.set()
