"""The own engine: one thread owns the model and answers what waits, a few requests at a time.

A second thread routes and tokenizes, so that this goes on while the model computes. Batches are static: who comes while
one is worked out waits for its end. Answers do not: each is sent when it is over.
"""

import asyncio
import copy
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from llava_mocle.errors import ConfigError, DataError, RoutingError
from llava_mocle.inference import Predictor
from llava_mocle.inference.prepared import Prepared
from llava_mocle.serving.answer import Answer
from llava_mocle.serving.backend import Backend, Event, Finished, Job, Route, Usage
from llava_mocle.serving.line import Line
from llava_mocle.serving.question import Question
from llava_mocle.serving.refusal import Refusal, failed
from llava_mocle.serving.together import answer_together
from llava_mocle.serving.views import model_views

logger = logging.getLogger(__name__)

# Seconds that the first request of an idle engine waits for others. Requests that are sent together come this close.
_PATIENCE = 0.004


@dataclass(frozen=True)
class Batch:
    """A batch that was worked out.

    Attributes:
        rows: answers in it.
        cancelled: how many of them were given up, as nobody waited for them any more.
        steps: tokens of its longest answer.
        seconds: that it took.
    """

    rows: int
    cancelled: int
    steps: int
    seconds: float


class OwnEngine(Backend):
    """Answers with a `Predictor`, which nobody else may use from `start` on.

    Args:
        predictor: what answers.
        max_batch: answers that are worked out together at most.
        watch: called with every batch, from the thread that owns the model.
    """

    def __init__(
        self, predictor: Predictor, *, max_batch: int = 16, watch: Callable[[Batch], None] | None = None
    ) -> None:
        self.model_id = predictor.model_id
        self.clusters = model_views(predictor)
        self.far_distance = predictor.prompt_router.beyond
        self.max_batch = max_batch
        self.watch = watch
        self._predictor = predictor
        # A tokenizer is not for two threads; this one decodes.
        self._tokenizer = copy.deepcopy(predictor.tokenizer)
        self._line = Line()
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="preparing")
        self._thread = threading.Thread(target=self._work, name="answering", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        self._line.close()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def alive(self) -> bool:
        return self._thread.is_alive()

    async def route(self, question: Question) -> Job:
        return await asyncio.get_running_loop().run_in_executor(self._preparing, self._prepare, question)

    def _prepare(self, question: Question) -> Job:
        """In the thread that routes."""
        try:
            (prepared,) = self._predictor.prepare([question.request()])
        except (DataError, RoutingError, ConfigError) as error:
            # The folder that such a message may name is nothing to clients.
            message = str(error).removeprefix(f"{self._predictor.path}: ")
            raise Refusal(400, message, code="invalid_request") from error
        cluster, distance = prepared.cluster_id, prepared.cluster_distance
        far = self.far_distance is not None and distance is not None and distance > self.far_distance
        view = self.view(cluster)
        route = Route(cluster, distance, view.gate if view else None, view.universal_weight if view else None)
        if far:
            route = Route(cluster, distance, 0.0, 1.0, out_of_distribution=True)
        return Job(question, route, prepared)

    async def generate(self, job: Job) -> AsyncGenerator[Event, None]:
        inbox: asyncio.Queue[Event | Exception] = asyncio.Queue()
        answers = self._answers(job, partial(self._deliver, inbox))
        self._line.add(*answers)
        try:
            left = len(answers)
            while left:
                event = await inbox.get()
                if isinstance(event, Exception):
                    raise event
                left -= isinstance(event, Finished)
                yield event
            yield Usage(job.payload.length, sum(len(answer.tokens) for answer in answers))
        finally:
            for answer in answers:
                answer.cancelled = True

    def _answers(self, job: Job, send: Callable[[Event | Exception], None]) -> list[Answer]:
        prepared: Prepared = job.payload
        decoding, limit = job.question.decoding, job.question.decoding.max_tokens
        if (context := self._predictor.context_length) is not None:
            limit = min(limit, context - prepared.length)
        return [
            Answer(
                prepared,
                decoding,
                index=index,
                limit=limit,
                stream=job.question.stream,
                stopping=self._predictor.stopping,
                send=send,
            )
            for index in range(decoding.n)
        ]

    def _deliver(self, inbox: "asyncio.Queue[Event | Exception]", event: Event | Exception) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(inbox.put_nowait, event)

    def _work(self) -> None:
        """In the thread that owns the model."""
        while batch := self._line.take(self.max_batch, _PATIENCE):
            begin, steps = time.monotonic(), 0
            try:
                steps = answer_together(self._predictor, batch, self._tokenizer)
            except Exception:
                logger.exception("a batch of %d answers failed", len(batch))
                for answer in batch:
                    if not answer.done:
                        answer.give_up()
                        answer.send(failed())
            again = [answer for answer in batch if answer.alone and answer.near_tie and not answer.cancelled]
            for answer in again:
                answer.begin()
            self._line.add(*again, front=True)
            if self.watch is not None:
                cancelled = sum(answer.cancelled and not answer.finished for answer in batch)
                self.watch(Batch(len(batch), cancelled, steps, time.monotonic() - begin))
