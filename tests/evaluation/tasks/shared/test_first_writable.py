import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.first_writable import first_writable


def write(path):
    path.write_text("image")


def test_the_first_that_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    blocked, good = tmp_path / "file/a.jpg", tmp_path / "b.jpg"
    assert first_writable(write, blocked, good) == good
    assert good.read_text() == "image"
    assert first_writable(write, tmp_path / "c.jpg", good) == tmp_path / "c.jpg"


def test_every_folder_is_named_with_its_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"a\.jpg: .*file \(Not a directory\), nor into .*none \(No such file"):
        first_writable(write, tmp_path / "file/a.jpg", tmp_path / "none/b.jpg")
