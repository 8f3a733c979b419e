"""`llava-mocle data make`: what it prints, what it refuses, and its exit codes."""

import json

import pytest

from llava_mocle.cli.main import main
from llava_mocle.data.formats.medical import Slake
from llava_mocle.data.formats.registry import FORMATS
from tests.data.formats import official_releases as releases


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Tables as in a log, whatever the terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def source(tmp_path):
    releases.slake(tmp_path / "source")
    return tmp_path / "source"


def make(source, *words):
    return main(["data", "make", "slake", "--source", str(source), *map(str, words)])


def test_without_a_name_all_are_listed(capsys):
    assert main(["data", "make"]) == 2
    out = capsys.readouterr().out
    for name, form in FORMATS.items():
        assert f"  {name} " in out
        assert form.summary in out


def test_help_lists_all(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "make", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert [name for name in FORMATS if f"  {name} " not in out] == []


@pytest.mark.parametrize("name", FORMATS)
def test_without_files_it_says_where_they_are(capsys, name):
    assert main(["data", "make", name]) == 2
    out = capsys.readouterr().out
    for file in FORMATS[name].files:
        line = next(line for line in out.splitlines() if f" {file.name} " in line and file.place in line)
        assert file.size in line
        assert file.license in line
    assert f"Then: llava-mocle data make {name} --source DIR --output FILE" in out


def test_which_files_are_missing(source, tmp_path, capsys):
    (source / "imgs.zip").unlink()
    assert make(source, "--output", tmp_path / "x.json") == 2
    out, err = capsys.readouterr()
    states = {line.split()[1]: line.split()[-2] for line in out.splitlines() if line.startswith("│")}
    assert states == {"train.json": "there", "imgs*": "MISSING", "test.json": "there"}
    assert err.startswith(f"error: {source}: lacks imgs* of slake;")
    assert not (tmp_path / "x.json").exists()


def test_a_source_that_is_no_folder_is_said_to_be_none(source, tmp_path, capsys):
    for place, reason in ((source / "train.json", "it is a file"), (tmp_path / "typo", "no such file or directory")):
        assert make(place, "--output", tmp_path / "x.json") == 2
        assert capsys.readouterr().err.startswith(f"error: --source {place}: {reason}; expected the folder")


def test_rows_are_written_and_counted(source, tmp_path, capsys, monkeypatch):
    assert make(source, "--output", tmp_path / "out/rows.jsonl") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{tmp_path}/out/rows.jsonl: 2 rows with 2 images in {tmp_path}/out/images"
    assert sorted(out[1:-1]) == [
        "left out, 1: it is not in English",
        "left out, 1: its answer is empty",
        "left out, 1: its image is not there",
        "left out, 1: the test split asks the same of the same image",
    ]
    assert out[-1].startswith("WARNING: the official files have 5 rows, expected 4,919 (")
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert all((tmp_path / "out/images" / row["image"]).is_file() for row in rows)
    # A file of the right size is not warned of.
    monkeypatch.setattr(Slake, "rows", type(Slake.rows)((4, 5), "this test"))
    assert make(source, "--output", tmp_path / "out/again.json", "--images", tmp_path / "elsewhere") == 0
    assert "WARNING" not in capsys.readouterr().out
    assert (tmp_path / "elsewhere/slake/xmlab1/source.jpg").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --output FILE"),
        (["--output", "x.json", "--variants", "2"], "slake draws no templates"),
        (["--output", "x.json", "--variants", "0"], "--variants is 0, expected at least 1"),
        (["--output", "SOURCE/train.json"], "is one of the official files"),
        (["--output", "SOURCE"], "is a folder, expected a file"),
    ],
)
def test_what_it_refuses(source, capsys, words, message):
    before = (source / "train.json").read_bytes()
    assert make(source, *(word.replace("SOURCE", str(source)) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert (source / "train.json").read_bytes() == before


def test_an_unknown_name(capsys):
    assert main(["data", "make", "slaek"]) == 2
    assert "'slaek' is no dataset that can be made, expected one of: llava_665k" in capsys.readouterr().err


def test_rows_pass_data_check(source, tmp_path):
    assert make(source, "--output", tmp_path / "rows.json") == 0
    assert (
        main(["data", "check", "--rows", str(tmp_path / "rows.json"), "--image-folder", str(tmp_path / "images")]) == 0
    )
