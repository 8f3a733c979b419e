"""What `llava-mocle eval prepare` says of files that are there, missing, cut off or swapped."""

import shutil

import pytest

from llava_mocle.cli.main import main
from llava_mocle.evaluation.tasks.pope import Pope
from llava_mocle.evaluation.tasks.vizwiz import VizWizVal
from tests.evaluation.tasks.official_files import data_root, make_images


@pytest.fixture
def root(tmp_path):
    data_root(tmp_path, "pope")
    make_images(tmp_path / "pope/val2014/COCO_val2014_000000000042.jpg")
    return tmp_path


def test_without_names_files_are_only_looked_for(root, capsys, monkeypatch):
    monkeypatch.setattr(Pope, "items", None)
    assert main(["eval", "prepare", "--data-root", str(root)]) == 1
    out = capsys.readouterr().out
    assert out.count("MISSING") > 30
    assert "The files were looked for, but not read" in out
    assert "\npope: " not in out


@pytest.mark.parametrize(
    ("published", "code", "message"),
    [
        (6, 0, "pope: 6 questions, as published"),
        (9000, 1, "pope: 6 questions, the published files hold 9000: cut off, or of another split or version?"),
        (None, 0, "pope: 6 questions; how many the published files hold is not known here"),
    ],
)
def test_named_benchmarks_are_read(root, capsys, monkeypatch, published, code, message):
    monkeypatch.setattr(Pope, "official_n", published)
    assert main(["eval", "prepare", "pope", "--data-root", str(root)]) == code
    out = capsys.readouterr().out
    assert "MISSING" not in out
    assert message in out.splitlines()
    assert "not read" not in out


def test_a_file_of_another_split(root, capsys):
    folder = root / "pope/coco"
    shutil.copy(folder / "coco_pope_adversarial.json", folder / "coco_pope_popular.json")
    assert main(["eval", "prepare", "pope", "--data-root", str(root)]) == 1
    out = capsys.readouterr().out
    assert f"pope: {folder / 'coco_pope_adversarial.json'}: holds the same 4 questions as" in out
    assert f"{folder / 'coco_pope_popular.json'}, expected a split of its own" in out


def test_no_questions_at_all(root, capsys, monkeypatch):
    data_root(root, "vizwiz")
    (root / "vizwiz/val.json").write_text("[]")
    (root / "vizwiz/val").mkdir()
    monkeypatch.setattr(VizWizVal, "official_n", None)
    assert main(["eval", "prepare", "vizwiz_val", "--data-root", str(root)]) == 1
    assert "vizwiz_val: 0 questions; " in capsys.readouterr().out


def test_what_is_missing_is_not_read(root, capsys):
    shutil.rmtree(root / "pope/val2014")
    assert main(["eval", "prepare", "pope,mme", "--data-root", str(root)]) == 1
    out = capsys.readouterr().out
    assert out.count("MISSING") == 2
    assert "\npope: " not in out
