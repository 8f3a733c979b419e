"""Which files a format needs, and formats that are joined."""

import pytest

from llava_mocle.data.formats.format import Asked, Format, Joined, LeftOut, MakeOptions, OfficialFile, OfficialRows
from llava_mocle.errors import DataError

FILES = (
    OfficialFile("a", "here", "1 MB", "CC0", "one"),
    OfficialFile("b", "here", "1 MB", "CC0", "one"),
    OfficialFile("c-*.json", "here", "1 MB", "CC0", "two"),
    OfficialFile("d", "here", "1 MB", "CC0", "two", needed=False),
    OfficialFile("e", "here", "1 MB", "CC0"),
)


class Given(Format):
    name = "given"
    summary = "given"
    files = FILES
    rows = OfficialRows((2, 3), "this test")
    task_group = "talk"

    def make(self, source, images, options):
        yield {"id": f"{source.name}-1"}
        yield LeftOut("x")

    def asked_in_test(self, source):
        yield Asked(source.name.encode(), " Is  IT ? ")


class Other(Given):
    name = "other"
    files = (FILES[-1],)
    rows = OfficialRows((10, 20), "another test")


class Both(Joined):
    name = "both"
    summary = "both"
    parts = (("", Given()), ("folder", Other()))


def test_the_first_whole_form_is_taken(tmp_path):
    form = Given()
    (tmp_path / "e").touch()
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match=r"lacks b of given"):
        form.form(tmp_path)
    (tmp_path / "c-1.json").touch()
    assert form.form(tmp_path) == "two"
    (tmp_path / "b").touch()
    assert form.form(tmp_path) == "one"
    (tmp_path / "e").unlink()
    with pytest.raises(DataError, match=r"lacks e of given"):
        form.form(tmp_path)


def test_joined_formats(tmp_path):
    assert [file.name for file in Both.files] == ["a", "b", "c-*.json", "d", "e", "folder/e"]
    assert sorted(Both.rows.counts) == [12, 13, 22, 23]
    assert Both.rows.stated_by == "this test; another test"
    for name in ("a", "b", "e"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="folder: lacks e of other"):
        Both().form(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/e").touch()
    Both().form(tmp_path)
    first, _, second, left_out = Both().make(tmp_path, tmp_path, MakeOptions())
    assert first == {"id": f"{tmp_path.name}-1", "dataset": "given", "task_group": "talk"}
    assert second == {"id": "folder-1", "dataset": "other", "task_group": "talk"}
    assert left_out == LeftOut("x")
    assert list(Both().asked_in_test(tmp_path))[1] == Asked(b"folder", "is it ?")
