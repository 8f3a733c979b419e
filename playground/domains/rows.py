"""What the domains share: facts about images, instruction templates (the paper's Table 10), rows, and their files."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.io.files import write_text

Row = dict[str, Any]

CAPTION_TEMPLATES = (
    "A short image caption:",
    "A short image description:",
    "A photo of",
    "An image that shows",
    "Write a short description for the image.",
    "Briefly describe the content of the image.",
    "Provide a description of what is presented in the photo.",
    "Use a few words to illustrate what is happening in the picture.",
)

QUESTION_TEMPLATES = (
    "{question}",
    "Question: {question}",
    "Q: {question} A:",
    "Question: {question} Short answer:",
    "{question} A short answer to the question is",
    'What is the answer to the following question? "{question}"',
)

EVAL_QUESTION_TEMPLATE = "Question: {question} Short answer:"
EVAL_CAPTION_TEMPLATE = "A short image description:"


@dataclass(frozen=True)
class Fact:
    """Something to ask about one image.

    Attributes:
        image: path relative to the data folder.
        kind: question type, for balancing and for scores by type; part of the row's id.
        answer: the expected text.
        question: None for a caption.
    """

    image: str
    kind: str
    answer: str
    question: str | None = None


@dataclass(frozen=True)
class Captioned:
    """An image and the caption that stage 1 aligns the projector with."""

    image: str
    caption: str


def instruction(fact: Fact, rng: np.random.Generator, training: bool) -> str:
    """The instruction for a fact: a random training template, or the paper's evaluation template."""
    if fact.question is None:
        return str(rng.choice(CAPTION_TEMPLATES)) if training else EVAL_CAPTION_TEMPLATE
    template = str(rng.choice(QUESTION_TEMPLATES)) if training else EVAL_QUESTION_TEMPLATE
    return template.format(question=fact.question)


def make_row(row_id: str, image: str, prompt: str, answer: str) -> Row:
    """One LLaVA row with a single turn; the image comes before the text."""
    return {
        "id": row_id,
        "image": image,
        "conversations": [
            {"from": "human", "value": f"<image>\n{prompt}"},
            {"from": "gpt", "value": answer},
        ],
    }


def make_rows(domain: str, split: str, facts: Sequence[Fact], rng: np.random.Generator) -> list[Row]:
    """Rows of the facts in a random order; ids read `domain-split-kind-number`."""
    order = rng.permutation(len(facts))
    training = split == "train"
    return [
        make_row(
            f"{domain}-{split}-{facts[i].kind}-{n:04d}",
            facts[i].image,
            instruction(facts[i], rng, training),
            facts[i].answer,
        )
        for n, i in enumerate(order)
    ]


def caption_rows(domain: str, captioned: Sequence[Captioned], rng: np.random.Generator) -> list[Row]:
    """Stage-1 rows: one a training image."""
    return [
        make_row(f"{domain}-caption-{n:04d}", item.image, str(rng.choice(CAPTION_TEMPLATES)), item.caption)
        for n, item in enumerate(captioned)
    ]


def balanced(facts: Sequence[Fact], quota: Mapping[str, int], rng: np.random.Generator) -> list[Fact]:
    """Choose facts so that each kind has its quota and, within a kind, answers are as even as the facts allow.

    Kinds without a quota are left out. A kind with fewer facts than its quota gives all of them.
    """
    chosen: list[Fact] = []
    for kind, limit in quota.items():
        by_answer: dict[str, list[Fact]] = {}
        for index in rng.permutation(len(facts)):
            if facts[index].kind == kind:
                by_answer.setdefault(facts[index].answer, []).append(facts[index])
        pools = [by_answer[answer] for answer in sorted(by_answer)]
        picked: list[Fact] = []
        while len(picked) < limit and any(pools):
            # A pass takes one fact of each answer; the last, partial pass must not favour the first in the alphabet.
            for i in rng.permutation(len(pools)):
                if pools[i] and len(picked) < limit:
                    picked.append(pools[i].pop())
        chosen.extend(picked)
    return chosen


def majority_share(rows: Iterable[Row]) -> tuple[str, float]:
    """The most frequent answer of the rows and its share."""
    counts = Counter(row["conversations"][1]["value"] for row in rows)
    answer, count = counts.most_common(1)[0]
    return answer, count / counts.total()


def kind_of(row: Row) -> str:
    """The question type of a row, read from its id."""
    return str(row["id"]).split("-")[2]


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a JSON list, under a temporary name first."""
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def write_domain(
    domain: str,
    data: Path,
    train: Sequence[Fact],
    test: Sequence[Fact],
    captioned: Sequence[Captioned],
    rng: np.random.Generator,
) -> list[Row]:
    """Write `train.json`, `test.json` and `captions.json` under `data/domain`.

    Returns:
        The stage-1 caption rows, which are also joined over the domains.
    """
    shared = {fact.image for fact in train} & {fact.image for fact in test}
    assert not shared, f"{domain}: images in both splits: {sorted(shared)[:3]}"
    captions = caption_rows(domain, captioned, rng)
    write_json(data / domain / "train.json", make_rows(domain, "train", train, rng))
    write_json(data / domain / "test.json", make_rows(domain, "test", test, rng))
    write_json(data / domain / "captions.json", captions)
    return captions
