"""The conversation in a terminal."""

import asyncio
import math
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, Turn
from llava_mocle.errors import ConfigError, DataError, UserError
from llava_mocle.io.console import say
from llava_mocle.io.paths import user_path, why_no_file
from llava_mocle.io.text import one_line
from llava_mocle.serving.backend import Backend, Finished, Piece
from llava_mocle.serving.pictures import Picture, data_uri, picture_of
from llava_mocle.serving.question import Decoding, Limits, Question
from llava_mocle.serving.refusal import Refusal

HELP = """/image FILE      show an image with the next question
/cluster N       use this cluster from now on; /cluster auto: the question's own
/temperature T   0 is greedy
/length N        tokens of an answer at most
/again           answer the last question again
/new             begin a new conversation
/quit            end (as Ctrl-D does)"""


class Terminal:
    """A conversation: what was said, what is shown with the next question, and how answers are decoded.

    Args:
        system: a system text in place of the template's own.
        temperature, top_p, max_tokens: as `Decoding`.
        console: where it is printed; default: standard output.
        read: gives the next line, or raises EOFError.
    """

    def __init__(
        self,
        *,
        system: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        console: Console | None = None,
        read: Callable[[str], str] = input,
    ) -> None:
        self.system = system
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.cluster: int | None = None
        self.turns: list[Turn] = []
        self.pictures: list[Picture] = []
        self._next: list[Picture] = []
        self._console = console or Console(highlight=False)
        self._read = read
        self._commands: Mapping[str, Callable[[str], bool]] = {
            "/image": self._image,
            "/cluster": self._cluster,
            "/temperature": self._temperature,
            "/length": self._length,
            "/again": self._again,
            "/new": self._new,
            "/help": self._help,
        }

    async def talk(self, backend: Backend) -> None:
        """Read and answer until the end."""
        await backend.start()
        try:
            say(self._console, f"{backend.model_id}; /help lists the commands", style="dim")
            while (line := self._line()) is not None:
                try:
                    if self.takes(line):
                        await _until_ctrl_c(self._answer(backend))
                except (UserError, Refusal) as error:
                    say(self._console, f"error: {error}", style="red")
                    if self.turns and self.turns[-1].role == HUMAN:
                        self._drop_last()
        finally:
            await backend.close()

    def takes(self, line: str) -> bool:
        """Take a line; returns whether an answer is due.

        Raises:
            DataError, ConfigError: a command is wrong.
        """
        line = line.strip()
        if not line:
            return False
        if line.startswith("/"):
            name, _, rest = line.partition(" ")
            if name not in self._commands:
                raise ConfigError(f"there is no command {one_line(name, 40)}; /help lists them")
            return self._commands[name](rest.strip())
        if IMAGE_TOKEN in line:
            raise DataError(f"a text holds {IMAGE_TOKEN}; show images with /image FILE")
        self.turns.append(Turn(HUMAN, f"{IMAGE_TOKEN}\n" * len(self._next) + line))
        self.pictures += self._next
        self._next = []
        return True

    def add_image(self, path: str | Path) -> None:
        """Show an image with the next question.

        Raises:
            DataError: it is not there, or is none.
        """
        if (trouble := why_no_file(path)) is not None:
            raise DataError(f"{one_line(path)}: {trouble}")
        try:
            self._next.append(picture_of(data_uri(Path(path).read_bytes(), "png"), Limits(), one_line(path)))
        except Refusal as refusal:
            raise DataError(refusal.message) from refusal

    def _line(self) -> str | None:
        try:
            with _ctrl_c_ends():
                line = self._read("\n> ")
        except EOFError:
            return None
        return None if line.strip() == "/quit" else line

    async def _answer(self, backend: Backend) -> None:
        """Ask, and print the answer as it comes."""
        job = await backend.route(self.question())
        route = job.route
        if route.cluster_id is not None:
            far = ", far from every cluster: the universal expert alone" if route.out_of_distribution else ""
            distance = "" if route.distance is None else f", distance {route.distance:.3f}"
            weight = "" if route.universal_weight is None else f", universal expert {route.universal_weight:.2f}"
            say(self._console, f"cluster {route.cluster_id}{distance}{weight}{far}", style="dim")
        text, note = "", ""
        events = backend.generate(job)
        try:
            async for event in events:
                if isinstance(event, Piece):
                    text += event.text
                    self._console.print(event.text, end="", markup=False, soft_wrap=True)
                elif isinstance(event, Finished) and event.reason == "length":
                    note = "(cut off: /length N allows more)"
        except asyncio.CancelledError:
            note = "(stopped)"
        finally:
            await events.aclose()
            self._console.print()
            if note:
                say(self._console, note, style="dim")
        self.turns.append(Turn(ASSISTANT, text))

    def question(self) -> Question:
        """What is asked."""
        decoding = Decoding(self.max_tokens, temperature=self.temperature, top_p=self.top_p)
        return Question(
            tuple(self.turns),
            decoding,
            system=self.system,
            pictures=tuple(self.pictures),
            cluster_id=self.cluster,
            stream=True,
        )

    def _image(self, rest: str) -> bool:
        self.add_image(user_path(rest))
        say(self._console, f"{len(self._next)} image(s) with the next question", style="dim")
        return False

    def _cluster(self, rest: str) -> bool:
        if rest != "auto" and not rest.isdigit():
            raise ConfigError(f"/cluster {one_line(rest, 40)}: expected a number, or auto")
        self.cluster = None if rest == "auto" else int(rest)
        return False

    def _temperature(self, rest: str) -> bool:
        self.temperature = _number(rest, "/temperature", least=0.0)
        return False

    def _length(self, rest: str) -> bool:
        self.max_tokens = int(_number(rest, "/length", least=1.0))
        return False

    def _again(self, rest: str) -> bool:
        if self.turns and self.turns[-1].role == ASSISTANT:
            self.turns.pop()
        return bool(self.turns)

    def _new(self, rest: str) -> bool:
        self.turns, self.pictures, self._next = [], [], []
        return False

    def _help(self, rest: str) -> bool:
        say(self._console, HELP)
        return False

    def _drop_last(self) -> None:
        """Forget the last question, which cannot be answered."""
        shown = self.turns.pop().text.count(IMAGE_TOKEN)
        if shown:
            del self.pictures[-shown:]


@contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    """Let Ctrl-C interrupt what blocks the event loop, whose own handler would wait until the loop goes on."""
    try:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _until_ctrl_c(answer: Coroutine[Any, Any, None]) -> None:
    """Let Ctrl-C cancel an answer, and not the program."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(answer)
    before = signal.getsignal(signal.SIGINT)
    try:
        loop.add_signal_handler(signal.SIGINT, task.cancel)
    except (RuntimeError, ValueError, NotImplementedError):  # not in the main thread, or not on this system
        await task
        return
    try:
        await task
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


def _number(text: str, name: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ConfigError(f"{name} {one_line(text, 40)}: expected a number of at least {least:g}")
    return value
