"""One answer on its way: its tokens so far, what of its text can be sent, and what ends it."""

from collections.abc import Callable, Sequence
from typing import Any

from llava_mocle.inference.generation import Stopping
from llava_mocle.inference.prepared import Prepared
from llava_mocle.serving.backend import Event, Finished, Piece
from llava_mocle.serving.question import Decoding

# A tokenizer decodes the first bytes of a character to this.
_HALF_A_CHARACTER = "�"


class Answer:
    """One of the `n` answers to a question. The thread that owns the model calls everything but `cancelled`.

    Its text is stripped, as a `Predictor` strips it, so white space waits for what follows it.

    Args:
        prepared: the question.
        decoding: how to answer.
        index: which answer it is.
        limit: how many tokens it may have.
        stream: whether its text is sent as it comes.
        stopping: what ends every answer of the model.
        send: takes the events.

    Attributes:
        cancelled: nobody waits for it any more; any thread may set it.
        alone: it has to be worked out without others, as they may have decided a token of it.
        tokens: its tokens so far, the end of turn not among them.
        finished: it is over, and has said so.
        done: it is over, or given up.
        near_tie: others of its batch may have decided a token; None: nobody looked.
    """

    def __init__(
        self,
        prepared: Prepared,
        decoding: Decoding,
        *,
        index: int,
        limit: int,
        stream: bool,
        stopping: Stopping,
        send: Callable[[Event | Exception], None],
    ) -> None:
        self.prepared = prepared
        self.decoding = decoding
        self.index = index
        self.limit = limit
        self.stream = stream
        self.send = send
        self.cancelled = False
        self.alone = False
        self._end_ids = frozenset(stopping.token_ids)
        self._stops = (*stopping.strings, *decoding.stop)
        self.begin()

    @property
    def seed(self) -> int | None:
        """Of its random numbers; None: any."""
        return None if self.decoding.seed is None else self.decoding.seed + self.index

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.decoding.temperature == 0

    def begin(self) -> None:
        """Start again with nothing."""
        self.tokens: list[int] = []
        self.done = self.finished = False
        self.near_tie: bool | None = None
        self._sent = ""
        self._logprobs: list[dict[str, Any]] = []

    def take(self, token: int, tokenizer: Any, logprob: dict[str, Any] | None = None) -> None:
        """Add a token, or end with it.

        Args:
            logprob: of the token, as OpenAI writes it.
        """
        if token in self._end_ids:
            self._finish(tokenizer, "stop")
            return
        self.tokens.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        full = len(self.tokens) >= self.limit
        if not (self.stream or self._stops or full):
            return
        text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        if self._first_stop(text) is not None:
            self._finish(tokenizer, "stop")
        elif full:
            self._finish(tokenizer, "length")
        elif self.stream:
            self._send_text(_settled(text, self._stops))

    def give_up(self) -> None:
        """End without a word: nobody waits for it, or it is started again."""
        self.done = True

    def _first_stop(self, text: str) -> int | None:
        """Where the earliest of the texts begins that end an answer."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def _finish(self, tokenizer: Any, reason: str) -> None:
        text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        self._send_text(text[: self._first_stop(text)].strip())
        self.done = self.finished = True
        self.send(Finished(self.index, reason, self.near_tie))

    def _send_text(self, text: str) -> None:
        # A tokenizer that changes earlier text when later tokens come cannot be streamed from there on.
        new = text[len(self._sent) :] if text.startswith(self._sent) else ""
        if new or self._logprobs:
            self.send(Piece(self.index, new, tuple(self._logprobs)))
            self._sent += new
            self._logprobs = []


class Stripped:
    """Strips a text that comes in parts: white space waits for what follows it."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def add(self, text: str) -> str:
        """What can be sent now that this part has come."""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        sent = text.rstrip()
        self._held = text[len(sent) :]
        self._begun = self._begun or bool(sent)
        return sent


def _settled(text: str, stops: Sequence[str]) -> str:
    """The part of a text that what follows cannot change: stripped in front, with nothing at its end that may yet be
    stripped, completed, or the beginning of a text that ends the answer."""
    text = text.lstrip()
    end = len(text.rstrip(_HALF_A_CHARACTER))
    for stop in stops:
        for length in range(min(len(stop) - 1, end), 0, -1):
            if text.endswith(stop[:length], 0, end):
                end -= length
                break
    return text[:end].rstrip()
