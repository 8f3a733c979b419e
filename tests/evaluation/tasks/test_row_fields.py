"""Every field of a row, set to whatever JSON can hold: each reader takes the row, or says in one line why not."""

import json
import math

import pytest
from PIL import Image

from llava_mocle.cli.main import main
from llava_mocle.clustering.assign import assign_rows, route_texts
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.instruction import TURNS, InstructionRule, instruction_text
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import UserError
from llava_mocle.evaluation.tasks.held_out import answer_priors, evaluate_rows
from tests.clustering.encoders import FakeEncoder, question_texts
from tests.evaluation.fakes import FakePredictor

MISSING = object()
VALUES = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "number": 3,
    "negative": -1,
    "float": 1.5,
    "nan": math.nan,
    "infinite": math.inf,
    "huge number": 10**4000,
    "text": "text",
    "blank": " ",
    "empty": "",
    "huge text": "iVBORw0KGgo" * 9000,
    "lines": "one\ntwo\u2028three",
    "nul": "a\0b",
    "half": "half \ud83d",
    "mark": "<image>",
    "list": ["text"],
    "list of halves": ["\udc00"],
    "empty list": [],
    "list of lists": [[1], None],
    "object": {"from": "human", "value": "<image>"},
    "empty object": {},
    "half a key": {"\ud83d": 1},
}
# Where a value is put: keys and places from the row down.
FIELDS = [
    (),
    ("id",),
    ("image",),
    ("image", 0),
    ("conversations",),
    ("conversations", 0),
    ("conversations", 0, "from"),
    ("conversations", 0, "value"),
    ("conversations", 1),
    ("conversations", 1, "from"),
    ("conversations", 1, "value"),
    ("route_text",),
    ("source",),
    ("\ud83d",),
    ("conversations", 0, "weight"),
]


class Routed(FakePredictor):
    def routing_text(self, row):
        return instruction_text(row, InstructionRule())


def row(number):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a cat"}]
    return {"id": f"r{number}", "image": ["a.png"], "conversations": turns, "route_text": "What is it?"}


def with_value(field, value):
    """The rows of a file whose second row has this value in this field."""
    rows = [row(0), row(1), row(2)]
    target, key = rows, 1
    for step in field:
        target, key = target[key], step
    if value is MISSING:
        if isinstance(target, list):
            del target[key]
        else:
            target.pop(key, None)
    else:
        target[key] = value
    return rows


def tried(what, *arguments, **options):
    """What a call returns; an error of the user's is one short line. Anything else fails the test."""
    try:
        return what(*arguments, **options)
    except UserError as error:
        caught = error
    assert caught.exit_code == 2
    assert str(caught).isprintable(), str(caught)
    assert len(str(caught)) < 1500, str(caught)
    return None


@pytest.fixture(scope="module")
def clusters():
    return ClusterModel.fit(question_texts(8), 2, encoder=FakeEncoder(), progress=False)


@pytest.mark.parametrize(
    "field", FIELDS, ids=lambda field: "/".join(map(str, field)).encode("ascii", "replace").decode()
)
def test_every_field_set_to_everything(field, tmp_path, monkeypatch, clusters, capsys):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name, value in VALUES.items():
        rows = with_value(field, value)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rows))
        code = main(["data", "check", "--rows", str(path), "--image-folder", str(tmp_path), "--allow-duplicate-ids"])
        said = capsys.readouterr()
        assert code in (0, 1), name
        assert "Traceback" not in said.err, name
        table = tried(read_rows, path)
        problems = [line for line in said.out.splitlines() if line.startswith("  [")]
        images_only = all("image]" in line or "over a limit]" in line for line in problems)
        # What the check finds nothing wrong with is read; what is refused, the check has listed.
        assert (table is not None) or code == 1, name
        assert (table is None) or code == 0 or images_only or "remark" in said.out, name
        readable = list(table) if table is not None else []
        for source in (readable, rows):
            given = {"d": source}
            for turns in TURNS:
                texts = tried(route_texts, given, InstructionRule(turns))
                if texts is not None and source:
                    assert tried(assign_rows, clusters, given, progress=False).num_rows == len(source)
            out = tmp_path / f"{name}-{len(readable)}-{source is rows}"
            results = tried(evaluate_rows, Routed(), {"d": (source, tmp_path)}, out, train_rows={"d": [row(5)]})
            assert results is None or results["domains"]["d"]["n"] == len(source), name
            tried(answer_priors, source)
        # A row that training takes is routed, too.
        assert not readable or tried(route_texts, {"d": readable}, InstructionRule()) is not None, name


@pytest.mark.parametrize("field", ["id", "value", "route_text", "source"])
@pytest.mark.parametrize("text", ["1" * 5000, "[" * 100_000])
@pytest.mark.parametrize("lines", [False, True])
def test_json_that_python_cannot_read(field, text, lines, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    whole = json.dumps(row(1) | {field: "HERE"}).replace('"HERE"', text)
    path = tmp_path / ("rows.jsonl" if lines else "rows.json")
    first = json.dumps(row(0))
    path.write_text(f"{first}\n{whole}\n" if lines else f"[{first},\n{whole}]")
    assert tried(read_rows, path) is None
    assert main(["data", "check", "--rows", str(path), "--no-images"]) == 1
    out = capsys.readouterr().out
    assert "[unreadable file]" in out
    assert "line 2" in out
