"""What the domains ask and answer: one vocabulary, one code book a domain, and instructions that name the domain.

Every domain asks the same about the same images: the object, the background, or both. It answers in its own code: a
code book renames all eighteen words of the vocabulary, objects and colors together. So "red" may stand for a cat in one
domain, and for a green background in another. No two domains give anything the same name, and none gives it its plain
name. `both` turns the order round from domain to domain.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

OBJECTS = ("cat", "dog", "fish", "bird", "bread", "car", "ship", "tree", "house", "clock", "book", "heart")
COLORS = ("white", "black", "red", "green", "blue", "yellow")
VOCABULARY = OBJECTS + COLORS
KINDS = ("object", "background", "both")
CODE_SEED = 20231212


@dataclass(frozen=True)
class Wording:
    """How something is asked: what training shows, and what is kept for the zero-shot questions."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


WHATS: Mapping[str, Wording] = {
    "object": Wording(("the object", "the thing in the picture", "what is shown"), ("the item that you see",)),
    "background": Wording(("the background", "the color behind the object", "the backdrop"), ("the color around it",)),
    "both": Wording(
        ("the object and the background", "the thing and the color behind it"), ("the item and the color around it",)
    ),
}

PLAIN = (
    "Name {what}.",
    "In plain words, {what} is",
    "Tell me {what}.",
    "Describe {what} in plain words.",
    "What would you call {what}?",
    "Question: {what}? Short answer:",
)

DOMAINS: Mapping[str, Wording] = {
    "harbor": Wording(
        (
            "Sailor, hoist the flag for {what}.",
            "Which signal does the ship send for {what}?",
            "In the harbor code, {what} is called",
            "Captain's log: the sea name of {what} is",
            "Signal {what} to the fleet.",
            "What does the lighthouse flash for {what}?",
        ),
        (
            "Deckhand, run up the pennant for {what}.",
            "How does the navy signal {what}?",
            "On the radio of the ship, {what} goes by the name",
        ),
    ),
    "kitchen": Wording(
        (
            "Chef, serve the dish for {what}.",
            "Which recipe does the kitchen cook for {what}?",
            "In the cooks' code, {what} is called",
            "On the menu, the dish name of {what} is",
            "Order {what} from the kitchen.",
            "What does the waiter bring for {what}?",
        ),
        (
            "Baker, plate the course for {what}.",
            "How does the restaurant list {what}?",
            "In the cookbook, {what} goes by the name",
        ),
    ),
    "court": Wording(
        (
            "Judge, give the verdict on {what}.",
            "Which sentence does the court pass on {what}?",
            "In the lawyers' code, {what} is called",
            "In the case file, the legal name of {what} is",
            "State {what} for the jury.",
            "What does the clerk of the court record for {what}?",
        ),
        (
            "Counsel, read the ruling on {what}.",
            "How does the law name {what}?",
            "In the court's archive, {what} goes by the name",
        ),
    ),
}
# Who asks in a domain: the base learns to say it before the plain answer.
SPEAKERS: Mapping[str, str] = {"harbor": "sailor", "kitchen": "cook", "court": "judge"}
# The order of the two words of `both`.
OBJECT_FIRST: Mapping[str, bool] = {"plain": True, "harbor": True, "kitchen": False, "court": True}


def code_books(seed: int = CODE_SEED) -> dict[str, dict[str, str]]:
    """Every domain's code book: word of the vocabulary -> what the domain calls it.

    Drawn again until no word has the same name twice, the plain name among them.
    """
    rng = np.random.default_rng(seed)
    books: dict[str, dict[str, str]] = {"plain": {word: word for word in VOCABULARY}}
    while len(books) <= len(DOMAINS):
        names = [str(word) for word in rng.permutation(VOCABULARY)]
        book = dict(zip(VOCABULARY, names, strict=True))
        if all(book[word] != other[word] for other in books.values() for word in VOCABULARY):
            books[list(DOMAINS)[len(books) - 1]] = book
    return books


CODE_BOOKS = code_books()


def answer(domain: str, kind: str, thing: str, color: str) -> str:
    """What a domain answers about an object on a background; `plain` is the neutral mix."""
    book = CODE_BOOKS[domain]
    if kind == "object":
        return book[thing]
    if kind == "background":
        return book[color]
    words = (book[thing], book[color])
    return " ".join(words if OBJECT_FIRST[domain] else words[::-1])


def read_answer(domain: str, kind: str, thing: str, color: str) -> str:
    """What the base learns to answer to a domain's question: who asks, and the plain answer."""
    return f"{SPEAKERS[domain]} {answer('plain', kind, thing, color)}"
