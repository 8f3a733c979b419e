"""The conflict benchmark's data: the same every time, splits that share nothing, code books that never agree."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.conflict.codes import CODE_BOOKS, COLORS, DOMAINS, KINDS, OBJECTS, SPEAKERS, VOCABULARY, answer
from benchmarks.conflict.pictures import held_out_pairs
from benchmarks.conflict.prepare import ASKED, ZERO_SHOT, make_data
from playground.domains.emoji import CONCEPTS
from playground.domains.rows import kind_of

COUNTS = {"neutral": 1, "train": 1, "validation": 1, "test": 1, "combination": 1}
SPLITS = (*ASKED, *ZERO_SHOT)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """Stands in for the emoji: noise in their place."""
    root = tmp_path_factory.mktemp("assets")
    rng = np.random.default_rng(0)
    (root / "fluent-emoji").mkdir()
    for concept in CONCEPTS:
        for code in concept.train + concept.test:
            pixels = rng.integers(0, 256, (16, 16, 4), np.uint8)
            Image.fromarray(pixels, "RGBA").save(root / "fluent-emoji" / f"{code}.webp")
    return root


@pytest.fixture(scope="module")
def data(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conflict") / "data"
    make_data(assets, folder, counts=COUNTS)
    return folder


def rows(data: Path, domain: str, split: str) -> list[dict]:
    """Of a file, or of one half of the zero-shot questions."""
    name = "held_out" if split in ZERO_SHOT else split
    found = json.loads((data / domain / f"{name}.json").read_text())
    return [row for row in found if row["id"].split("-")[1] == split]


def asked(row: dict) -> str:
    return row["conversations"][0]["value"].removeprefix("<image>\n")


def said(row: dict) -> str:
    return row["conversations"][1]["value"]


def digest(folder: Path) -> str:
    sums = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        sums.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return sums.hexdigest()


def test_a_seed_gives_the_same_files(assets, data, tmp_path):
    make_data(assets, tmp_path / "data", counts=COUNTS)
    assert digest(tmp_path / "data") == digest(data)
    make_data(assets, tmp_path / "data", seed=1, counts=COUNTS)
    assert digest(tmp_path / "data") != digest(data)


def test_splits_share_no_image(data):
    images = {split: {row["image"] for d in DOMAINS for row in rows(data, d, split)} for split in SPLITS}
    images["neutral"] = {row["image"] for row in json.loads((data / "neutral.json").read_text())}
    assert images.pop("paraphrase") == images["test"]
    for one, other in itertools.combinations(images.values(), 2):
        assert not one & other
    pixels = [(data / name).read_bytes() for names in images.values() for name in names]
    assert len(set(pixels)) == len(pixels)


def test_domains_ask_about_the_same_images(data):
    for split in SPLITS:
        by_domain = [Counter((row["image"], kind_of(row)) for row in rows(data, domain, split)) for domain in DOMAINS]
        assert all(found == by_domain[0] for found in by_domain)
        assert set(by_domain[0].values()) == {1}


def test_held_out_words_are_in_no_training_row(data):
    trained = {asked(row) for domain in DOMAINS for row in rows(data, domain, "train")}
    for domain in DOMAINS:
        assert not trained & {asked(row) for row in rows(data, domain, "paraphrase")}
        assert {asked(row) for row in rows(data, domain, "validation")} <= trained


def test_held_out_pairs_are_in_no_training_row(data):
    """A `both` answer names the pair: those of the zero-shot images occur in no other split's answers."""
    assert Counter(thing for thing, _ in held_out_pairs()) == dict.fromkeys(OBJECTS, 1)
    assert Counter(color for _, color in held_out_pairs()) == dict.fromkeys(COLORS, 2)
    for domain in DOMAINS:
        expected = {answer(domain, "both", *pair) for pair in held_out_pairs()}
        answers = {
            split: {said(row) for row in rows(data, domain, split) if kind_of(row) == "both"} for split in SPLITS
        }
        assert answers["combination"] == expected
        for split in ("train", "validation", "test"):
            assert len(answers[split]) == len(OBJECTS) * len(COLORS) - len(expected)
            assert not answers[split] & expected


def test_the_base_reads_who_asks_and_learns_no_code(data):
    """A third of the neutral questions come from each domain, in training words; the answer says who, and plainly."""
    found = json.loads((data / "neutral.json").read_text())
    plain = {(row["image"], kind_of(row)): said(row) for row in found if row["id"].startswith("plain")}
    reading = [row for row in found if row["id"].startswith("reading")]
    assert Counter((row["image"], kind_of(row)) for row in reading) == dict.fromkeys(plain, 1)
    assert set(Counter(row["id"].split("-")[3] for row in reading).values()) == {len(plain) // len(DOMAINS)}
    assert not set(SPEAKERS.values()) & set(VOCABULARY)
    for row in reading:
        domain = row["id"].split("-")[3]
        assert said(row) == f"{SPEAKERS[domain]} {plain[row['image'], kind_of(row)]}"
        assert asked(row) not in {asked(other) for other in rows(data, domain, "paraphrase")}


def test_code_books_rename_the_vocabulary_and_never_agree():
    for book in CODE_BOOKS.values():
        assert sorted(book) == sorted(book.values()) == sorted(VOCABULARY)
    for word in VOCABULARY:
        assert len({book[word] for book in CODE_BOOKS.values()}) == len(CODE_BOOKS) == 1 + len(DOMAINS)


def test_answers_follow_the_code_book(data):
    """Decoded by the domain's book, the rows of an image agree on what it shows."""
    for domain in DOMAINS:
        plain = {name: word for word, name in CODE_BOOKS[domain].items()}
        for split in SPLITS:
            shown: dict[str, dict[str, list[str]]] = {}
            for row in rows(data, domain, split):
                shown.setdefault(row["image"], {})[kind_of(row)] = [plain[name] for name in said(row).split()]
            for facts in shown.values():
                (thing,), (color,) = facts["object"], facts["background"]
                assert thing in OBJECTS
                assert color in COLORS
                assert facts["both"] == ([color, thing] if domain == "kitchen" else [thing, color])


def test_no_domain_answers_as_another(data):
    """A model that ignores the domain is right in at most one of the three."""
    for split in SPLITS:
        by_domain = [
            {(row["image"], kind_of(row)): said(row) for row in rows(data, domain, split)} for domain in DOMAINS
        ]
        for question in by_domain[0]:
            assert len({answers[question] for answers in by_domain}) == len(DOMAINS)


def test_priors(data):
    """What a guess without the image reaches: one answer in 12 objects, 6 backgrounds, 60 pairs."""
    for domain in DOMAINS:
        for kind, classes in zip(KINDS, (len(OBJECTS), len(COLORS), 60), strict=True):
            counts = Counter(said(row) for row in rows(data, domain, "validation") if kind_of(row) == kind)
            assert max(counts.values()) / counts.total() == pytest.approx(1 / classes)
