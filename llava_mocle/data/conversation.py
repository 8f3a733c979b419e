"""A row's conversation as turns, and what a template makes of them: text plus the spans the assistant wrote."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_mocle.clustering.instruction import IMAGE_TOKEN

HUMAN = "human"
ASSISTANT = "gpt"
ROLES = (HUMAN, ASSISTANT)


@dataclass(frozen=True)
class Turn:
    """One utterance. `role` is "human" or "gpt"; `text` holds one `<image>` for each image shown in it."""

    role: str
    text: str


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: what the tokenizer sees, `<image>` tags still in it.
        assistant_spans: (start, end) character ranges of `text`, in order and disjoint: each answer with its end of
            turn, and with whatever the model has to write between the generation prompt and the answer.
    """

    text: str
    assistant_spans: tuple[tuple[int, int], ...] = ()


class Template(ABC):
    """How turns become text. Frozen: the same turns give the same characters forever.

    Attributes:
        name: its key in `templates.TEMPLATE_NAMES`.
        adds_bos: whether the tokenizer's start-of-text token goes in front; False if the template writes its own.
    """

    name: str
    adds_bos: bool = True

    @abstractmethod
    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        """Render turns that start with a human one and alternate.

        Args:
            turns: the conversation; its last turn is the assistant's, or the human's with `generation_prompt`.
            generation_prompt: end with the header after which the assistant starts to write.

        Raises:
            DataError: the turns have another order, or this template can't hold them.
        """

    def identity(self) -> str | None:
        """A text that is equal for templates that render alike; None if this can't be known."""
        return None


def place_images(text: str) -> str:
    """Put a turn's image tags in front, as LLaVA-1.5 does: `<image>\\n` for each, then the rest, stripped.

    A turn without a tag is returned as it is, its whitespace included.
    """
    count = text.count(IMAGE_TOKEN)
    if not count:
        return text
    rest = text.replace(IMAGE_TOKEN, "").strip()
    return (f"{IMAGE_TOKEN}\n" * count + rest).strip()


def row_images(row: Mapping[str, Any]) -> list[str]:
    """The image paths of a row: `image` may be a path, a list of paths, null or absent."""
    images = row.get("image")
    if images is None:
        return []
    return [images] if isinstance(images, str) else list(images)


def row_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a validated row, image tags in front. A first turn that isn't human is dropped, as in LLaVA-1.5."""
    turns = [Turn(entry["from"], place_images(entry["value"])) for entry in row["conversations"]]
    return turns[1:] if turns and turns[0].role != HUMAN else turns
