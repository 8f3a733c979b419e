"""What Prometheus reads: requests, tokens, times and the queue, by cluster."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from llava_mocle.serving.backend import Backend
    from llava_mocle.serving.own_engine import Batch

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOGETHER = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counts of one server. `cluster` is a number, "universal", or "none" where there was no route."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mocle_requests",
            "Requests, by the status of their response.",
            ["cluster", "status"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "mocle_tokens", "Tokens read (prompt) and written (answer).", ["cluster", "kind"], registry=self.registry
        )
        self.seconds = Histogram(
            "mocle_request_seconds",
            "From the head of a request to the end of its answers.",
            ["cluster"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first = Histogram(
            "mocle_first_text_seconds",
            "From the head of a request to the first of its text.",
            ["cluster"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.near_ties = Counter(
            "mocle_near_ties", "Streamed answers that their batch may have changed.", registry=self.registry
        )
        self.active = Gauge(
            "mocle_active_requests", "Requests that are being answered or wait.", registry=self.registry
        )
        self.batch = Histogram(
            "mocle_batch_rows", "Answers worked out together.", buckets=_TOGETHER, registry=self.registry
        )

    def watch_queue(self, backend: "Backend") -> None:
        """Report how many answers wait at a backend."""
        waiting = Gauge("mocle_waiting_answers", "Answers that wait for their turn.", registry=self.registry)
        waiting.set_function(lambda: backend.waiting)

    def note_batch(self, batch: "Batch") -> None:
        """Count a batch of the own engine."""
        self.batch.observe(batch.rows)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
