import pytest

from llava_mocle.errors import CheckpointError
from llava_mocle.model.folders import find_folder, new_folder


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "x"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_folder_may_stand_in_the_way(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(CheckpointError, match="never overwritten"), new_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / "a").read_text() == "1"


def test_hub_names_are_looked_for_in_the_local_cache_only():
    with pytest.raises(CheckpointError, match="hf download lmsys/none-such"):
        find_folder("lmsys/none-such", "a language model")
