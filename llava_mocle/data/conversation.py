"""A row's conversation as turns, and what a template makes of them: text plus the spans the assistant wrote.

The one reading of a row: training, checking, scoring and reports all take its turns and their images from here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from llava_mocle.clustering.instruction import HUMAN, IMAGE_TOKEN
from llava_mocle.errors import DataError

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
        name: its key in `template_names.TEMPLATE_NAMES`.
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


def turns_left_out(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many entries of `conversations` come before the first turn that counts: LLaVA-1.5 drops a first one that
    isn't human."""
    return int(bool(entries) and entries[0]["from"] != HUMAN)


def written_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a validated row that count, their texts as the row has them."""
    entries = row["conversations"]
    return [Turn(entry["from"], entry["value"]) for entry in entries[turns_left_out(entries) :]]


def row_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The same turns as a template takes them, image tags in front."""
    return [Turn(turn.role, place_images(turn.text)) for turn in written_turns(row)]


def shown_images(row: Mapping[str, Any]) -> list[list[str]]:
    """The images that each of these turns shows: its `<image>` tags take the row's images in their order.

    Raises:
        DataError: tags and images differ in number.
    """
    images, counts = row_images(row), [turn.text.count(IMAGE_TOKEN) for turn in written_turns(row)]
    if sum(counts) != len(images):
        raise DataError(f"{sum(counts)} {IMAGE_TOKEN} tags for {len(images)} images; they must be as many")
    ends = list(accumulate(counts))
    return [images[end - count : end] for end, count in zip(ends, counts, strict=True)]


def marked_prompt(prompt: str, images: int) -> str:
    """A prompt with one `<image>` tag for each of its images; they go in front where it has none.

    Raises:
        DataError: it has tags, but not as many.
    """
    return marked_turns([Turn(HUMAN, prompt)], images)[0].text


def marked_turns(turns: Sequence[Turn], images: int) -> list[Turn]:
    """Turns that end with the human's prompt, with one `<image>` tag for each image of the whole conversation.

    Where no turn has a tag, the images go in front of the first one, which is the human's.

    Raises:
        DataError: there are tags, but not as many.
    """
    tags = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if tags not in (0, images):
        raise DataError(
            f"prompt {turns[-1].text[:60]!r}: {tags} {IMAGE_TOKEN} marks for {images} images; use one mark an image, "
            "or none at all."
        )
    if tags:
        return list(turns)
    return [Turn(turns[0].role, f"{IMAGE_TOKEN}\n" * images + turns[0].text), *turns[1:]]
