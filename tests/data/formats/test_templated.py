"""What the seed and the number of variants change, on a format without files."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.data.formats.format import NO_ANSWER, NO_IMAGE, NO_QUESTION, LeftOut, MakeOptions, OfficialRows
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.errors import ConfigError


class Toy(TemplatedFormat):
    name = "toy"
    summary = "a toy"
    task_group = "VQA"
    data_source = "Toy"
    files = ()
    rows = OfficialRows((), "")

    def __init__(self, *samples: Sample | LeftOut, group: str = "VQA") -> None:
        self.task_group = group  # type: ignore[misc]
        self._samples = samples

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        yield from self._samples

    def rows_of(self, variants: int = 1, seed: int = 0) -> list:
        return list(self.make(Path(), Path(), MakeOptions(variants, seed)))


def many(count: int, answers: tuple[str, ...] = ("yes",)) -> list[Sample]:
    return [Sample(str(number), "a.jpg", "is it?", answers) for number in range(count)]


def test_the_seed_decides() -> None:
    toy = Toy(*many(50))
    assert toy.rows_of(3, seed=1) == toy.rows_of(3, seed=1)
    assert toy.rows_of(3, seed=1) != toy.rows_of(3, seed=2)


def test_more_variants_keep_the_rows_of_fewer() -> None:
    toy = Toy(*many(20, ("yes", "no", "maybe")))
    fewer = toy.rows_of(2)
    more = toy.rows_of(5)
    assert [row for number, row in enumerate(more) if number % 5 < 2] == fewer


def test_a_sample_is_written_alike_wherever_it_stands() -> None:
    samples = many(6, ("yes", "no"))
    forwards, backwards = Toy(*samples).rows_of(2), Toy(*reversed(samples[2:])).rows_of(2)
    assert {row["id"]: row for row in backwards}.items() <= {row["id"]: row for row in forwards}.items()


def test_variants_of_a_sample_have_different_templates() -> None:
    rows = Toy(*many(30)).rows_of(10)
    assert len({row["id"] for row in rows}) == len(rows) == 300
    for start in range(0, 300, 10):
        assert {row["template"] for row in rows[start : start + 10]} == set(range(10))


def test_templates_are_drawn_evenly() -> None:
    """Of 5,000 draws from 10 templates, each gets 500; 4 standard deviations are 4 * sqrt(5000 * 0.1 * 0.9) = 85."""
    counts = Counter(row["template"] for row in Toy(*many(5000)).rows_of())
    assert len(counts) == 10
    assert all(abs(count - 500) < 85 for count in counts.values())


def test_answers_are_drawn_as_often_as_they_were_given() -> None:
    """Of 5,000 draws, "yes" (seven of ten) gets 3,500; 4 standard deviations are 4 * sqrt(5000 * 0.7 * 0.3) = 130."""
    answers = ("yes",) * 7 + ("no",) * 2 + ("maybe", " ")[:1]
    counts = Counter(row["conversations"][1]["value"] for row in Toy(*many(5000, answers)).rows_of())
    assert abs(counts["yes"] - 3500) < 130
    assert abs(counts["no"] - 1000) < 114
    assert sum(counts.values()) == 5000


def test_blank_answers_are_not_drawn() -> None:
    rows = Toy(*many(200, ("", " ", "wind"))).rows_of()
    assert {row["conversations"][1]["value"] for row in rows} == {"wind"}


def test_what_cannot_be_used() -> None:
    elsewhere = LeftOut("another split", official=False)
    found = Toy(
        Sample("1", None, "is it?", ("yes",)), Sample("2", "a.jpg", " ", ("yes",)), Sample("3", "a.jpg", "is it?")
    ).rows_of()
    assert found == [NO_IMAGE, NO_QUESTION, NO_ANSWER]
    assert Toy(Sample("4", "a.jpg", ""), elsewhere, group="CAP").rows_of() == [NO_ANSWER, elsewhere]


@pytest.mark.parametrize(("group", "most"), [("VQG", 6), ("VQA", 10), ("CAP", 13)])
def test_more_variants_than_templates(group: str, most: int) -> None:
    toy = Toy(Sample("1", "a.jpg", "is it?", ("yes",)), group=group)
    assert len(toy.rows_of(most)) == most
    with pytest.raises(ConfigError, match=rf"--variants is {most + 1}, expected at most {most}: toy .* of {group}"):
        toy.rows_of(most + 1)


def test_the_whole_request_routes() -> None:
    (row,) = Toy(Sample("1", "a.jpg", "a boat", ocr_tokens=("NORTH", "STAR")), group="OCRCAPS").rows_of()
    assert "route_text" not in row
    text = instruction_text(row, InstructionRule())
    assert text == row["conversations"][0]["value"].removeprefix("<image>\n")
    assert text.startswith("OCR tokens: NORTH, STAR. ")
