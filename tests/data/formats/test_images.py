"""Images come out of folders and archives once, and never out of their folder."""

import hashlib
import os
import zipfile

import pytest

from llava_mocle.data.formats.images import FolderImages, ZipImages, bytes_name, official_images, place_bytes
from llava_mocle.errors import DataError
from tests.data.formats.official_releases import picture, write, write_zip

OUTSIDE = ["../a.png", "/a.png", "b/../../a.png", "..\\a.png", "a\0.png", "", "\ud800.png"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_no_name_leads_out(tmp_path, name, kind):
    write(tmp_path / "a.png", picture(1))
    write(tmp_path / "source/b/a.png", picture(1))
    members = {"../a.png": picture(2), "/a.png": picture(2), "b/../../a.png": picture(2), "..\\a.png": picture(2)}
    write_zip(tmp_path / "source.zip", members)
    pictures = FolderImages(tmp_path / "source") if kind == "folder" else ZipImages(tmp_path / "source.zip")
    with pytest.raises(DataError, match="expected a relative path that stays inside its folder"):
        pictures.place(name, tmp_path / "images")
    with pytest.raises(DataError, match="expected a relative path"):
        pictures.digest(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "source", "source.zip"]
    assert (tmp_path / "a.png").read_bytes() == picture(1)


def test_bytes_cannot_be_written_outside(tmp_path):
    with pytest.raises(DataError, match="stays inside"):
        place_bytes(b"x", "../a.png", tmp_path / "images")


def test_an_archive_is_unpacked_once(tmp_path):
    write_zip(tmp_path / "x.zip", {"top/sub/ä.png": picture(1), "top/empty.png": b""})
    images = tmp_path / "images"
    assert ZipImages(tmp_path / "x.zip").place("sub/ä.png", images, "set") == "set/sub/ä.png"
    target = images / "set/sub/ä.png"
    assert target.read_bytes() == picture(1)
    os.utime(target, (1, 1))
    ZipImages(tmp_path / "x.zip").place("sub/ä.png", images, "set")
    assert target.stat().st_mtime == 1
    # Other bytes of the same length are replaced.
    target.write_bytes(picture(1)[:-1] + b"x")
    ZipImages(tmp_path / "x.zip").place("sub/ä.png", images, "set")
    assert target.read_bytes() == picture(1)
    assert ZipImages(tmp_path / "x.zip").place("empty.png", images) is None
    assert ZipImages(tmp_path / "x.zip").place("gone.png", images) is None


def test_files_are_linked_and_replaced(tmp_path):
    write(tmp_path / "source/a.png", picture(1))
    write(tmp_path / "source/empty.png", b"")
    write(tmp_path / "images/a.png", b"older")
    (tmp_path / "source/a.png").chmod(0o640)
    images = tmp_path / "images"
    assert FolderImages(tmp_path / "source").place("a.png", images) == "a.png"
    assert (tmp_path / "source/a.png").stat().st_mode & 0o777 == 0o640
    assert os.path.samefile(tmp_path / "source/a.png", images / "a.png")
    assert FolderImages(tmp_path / "source").place("empty.png", images) is None
    assert FolderImages(tmp_path / "source").place("x" * 300, images) is None
    assert sorted(os.listdir(images)) == ["a.png"]


def test_where_nothing_can_be_linked_files_are_copied(tmp_path, monkeypatch):
    write(tmp_path / "source/a.png", picture(1))

    def refuse(*_args):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    FolderImages(tmp_path / "source").place("a.png", tmp_path / "images")
    assert (tmp_path / "images/a.png").read_bytes() == picture(1)
    assert not os.path.samefile(tmp_path / "source/a.png", tmp_path / "images/a.png")


@pytest.mark.parametrize("damage", ["text", "cut", "bytes"])
def test_a_damaged_archive(tmp_path, damage):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", picture(1))
    data = path.read_bytes()
    at = data.index(picture(1)) + 40
    path.write_bytes({"text": b"no archive", "cut": data[:60], "bytes": data[:at] + b"??" + data[at + 2 :]}[damage])
    with pytest.raises(DataError, match=r"x\.zip: cannot be unpacked \(.*\); fetch the archive again"):
        ZipImages(path).place("a.png", tmp_path / "images")
    assert not (tmp_path / "images/a.png").exists()


def test_a_name_made_of_bytes(tmp_path):
    name = bytes_name(picture(1, "JPEG"), "set")
    assert name is not None
    assert name.startswith("set/")
    assert name.endswith(".jpg")
    assert bytes_name(picture(1, "JPEG"), "set") == name != bytes_name(picture(2, "JPEG"), "set")
    assert bytes_name(b"nothing", "set") is None
    place_bytes(picture(1, "JPEG"), name, tmp_path)
    os.utime(tmp_path / name, (1, 1))
    place_bytes(picture(1, "JPEG"), name, tmp_path)
    assert (tmp_path / name).stat().st_mtime == 1


def test_the_first_place_that_has_an_image(tmp_path):
    with pytest.raises(DataError, match=r"has neither imgs nor imgs\.zip"):
        official_images(tmp_path, "imgs", "imgs.zip")
    write_zip(tmp_path / "imgs.zip", {"imgs/a.png": picture(1), "imgs/b.png": picture(2)})
    # The archive is unpacked where the source itself is; the folder that this makes holds a part of it only.
    assert official_images(tmp_path, "imgs", "imgs.zip").place("a.png", tmp_path / "imgs") == "a.png"
    again = official_images(tmp_path, "imgs", "imgs.zip")
    assert again.place("b.png", tmp_path / "imgs") == "b.png"
    assert (tmp_path / "imgs/b.png").read_bytes() == picture(2)
    assert again.place("c.png", tmp_path / "imgs") is None
    (tmp_path / "imgs/a.png").write_bytes(b"other")
    assert again.digest("a.png") == hashlib.sha256(b"other").digest()
    assert official_images(tmp_path, "imgs.zip", "imgs").digest("a.png") == hashlib.sha256(picture(1)).digest()
    assert again.digest("c.png") is None
