"""Writing a format's rows: what is counted, what is refused, and what the file looks like."""

import json

import pytest

from llava_mocle.data.formats.format import Format, LeftOut, MakeOptions, OfficialRows
from llava_mocle.data.formats.make import make_rows
from llava_mocle.data.formats.registry import FORMATS
from llava_mocle.data.row_files import stream_rows
from llava_mocle.data.row_problems import first_problem
from llava_mocle.errors import DataError
from tests.data.formats.official_releases import RELEASES


class Given(Format):
    """Yields what it is given."""

    name = "given"
    summary = "given"
    files = ()
    rows = OfficialRows((2,), "this test")
    task_group = "talk"

    def __init__(self, *rows, variants=False):
        self.given = rows
        self.uses_variants = variants

    def make(self, source, images, options):
        yield from self.given


def row(row_id, answer="a", **more):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]
    return {"id": row_id, "conversations": turns, **more}


def make(form, tmp_path, name="rows.jsonl", variants=1):
    return make_rows(form, tmp_path, tmp_path / "images", tmp_path / name, MakeOptions(variants))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_the_file_that_is_written(tmp_path, name):
    make(Given(row("1", "ä 心"), row("2", note="half \ud83d")), tmp_path, name)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.startswith("[" if name == "rows.json" else "{")
    assert "ä 心" in text
    rows = [value for _, value in stream_rows(tmp_path / name)]
    assert rows == [
        {**row("1", "ä 心"), "dataset": "given", "task_group": "talk"},
        {**row("2", note="half \ud83d"), "dataset": "given", "task_group": "talk"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_counted(tmp_path):
    form = Given(
        row("1"), LeftOut("x"), LeftOut("y", official=False), LeftOut("x"), row("2", ""), row("3", "\ud83d"), row("4")
    )
    counts = make(form, tmp_path)
    assert (counts.rows, counts.images, counts.official) == (2, 0, 6)
    assert {what.reason: count for what, count in counts.left_out.items()} == {
        "x": 2,
        "y": 1,
        "empty answer": 1,
        "wrong text": 1,
    }


def test_variants_of_a_sample_count_once(tmp_path):
    form = Given(row("1-0"), row("1-1"), LeftOut("x"), row("2-0"), row("2-1"), variants=True)
    assert make(form, tmp_path, variants=2).official == 3


def test_ids_are_unique(tmp_path):
    (tmp_path / "rows.jsonl").write_text("older")
    with pytest.raises(DataError, match="two rows of given have the id '1', expected one"):
        make(Given(row("1"), row("1")), tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == "older"


def test_no_rows_at_all(tmp_path):
    with pytest.raises(DataError, match=r"no row of given can be made of it \(2: x\)"):
        make(Given(LeftOut("x"), LeftOut("x")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RELEASES)
def test_rows_can_be_trained_on_and_their_ids_are_stable(tmp_path, name):
    RELEASES[name](tmp_path / "source")
    form = FORMATS[name]
    texts = []
    for turn in ("first", "second"):
        output = tmp_path / f"{turn}.jsonl"
        make_rows(form, tmp_path / "source", tmp_path / "images", output, MakeOptions())
        texts.append(output.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    for index, line in enumerate(texts[0].splitlines()):
        made = json.loads(line)
        assert first_problem(made, index) is None
        if made.get("image"):
            assert (tmp_path / "images" / made["image"]).stat().st_size
