"""Images from base64 text: beside the table, in the cache, or nowhere."""

import base64
import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.base64_images import expected_image, unpack_image


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), colour).save(buffer, format="BMP")
    return buffer.getvalue()


RED_BYTES, BLUE_BYTES = picture("red"), picture("blue")
RED, BLUE = (base64.b64encode(colour).decode() for colour in (RED_BYTES, BLUE_BYTES))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_beside_the_table(tmp_path, cache):
    path = tmp_path / "table/1.jpg"
    assert expected_image(RED, path, "row 0") == path
    assert not path.parent.exists()
    assert unpack_image(RED, path, "row 0") == path
    assert path.read_bytes() == RED_BYTES
    assert not cache.exists()


def test_in_the_cache_where_nothing_can_be_written(tmp_path, cache):
    for table in ("one", "two"):
        (tmp_path / table).write_text("no folder")
    first = unpack_image(RED, tmp_path / "one/1.jpg", "row 0")
    second = unpack_image(BLUE, tmp_path / "two/1.jpg", "row 0")
    assert (first.read_bytes(), second.read_bytes()) == (RED_BYTES, BLUE_BYTES)
    assert first.parent == second.parent == cache / "images"
    assert first.suffix == ".jpg"
    stamp = first.stat().st_mtime_ns
    assert unpack_image(RED, tmp_path / "one/1.jpg", "row 0") == first
    assert first.stat().st_mtime_ns == stamp


def test_what_was_unpacked_stays_in_use(tmp_path, cache, monkeypatch):
    path = unpack_image(RED, tmp_path / "table/1.jpg", "row 0")

    def read_only(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    assert unpack_image(RED, path, "row 0") == path
    with pytest.raises(DataError, match=r"2\.jpg: can't be unpacked into .*table \(Read-only file system\), nor into"):
        unpack_image(RED, tmp_path / "table/2.jpg", "row 1")


def test_no_folder_to_write_to(tmp_path, cache):
    cache.write_text("no folder")
    (tmp_path / "table").write_text("no folder")
    with pytest.raises(DataError, match=r"1\.jpg: can't be unpacked into .*table .*LLAVA_MOCLE_CACHE"):
        unpack_image(RED, tmp_path / "table/1.jpg", "row 0")


@pytest.mark.parametrize("reading", [unpack_image, expected_image])
def test_what_is_no_base64(tmp_path, reading):
    with pytest.raises(DataError, match="row 0: field 'image' is not base64"):
        reading("re*d", tmp_path / "1.jpg", "row 0")


@pytest.mark.parametrize("reading", [unpack_image, expected_image])
@pytest.mark.parametrize("text", ["", "text", base64.b64encode(b"a page").decode()])
def test_what_is_no_image(tmp_path, reading, text):
    with pytest.raises(DataError, match=r"row 0: field 'image': can't be read as an image .*fetch"):
        reading(text, tmp_path / "1.jpg", "row 0")
    assert list(tmp_path.iterdir()) == []


def test_another_image_of_the_same_size_replaces_it(tmp_path):
    path = tmp_path / "1.jpg"
    assert len(RED_BYTES) == len(BLUE_BYTES)
    unpack_image(RED, path, "row 0")
    assert unpack_image(BLUE, path, "row 0").read_bytes() == BLUE_BYTES


def test_limits_of_pillow_are_no_damage(tmp_path):
    large, text = io.BytesIO(), io.BytesIO()
    Image.new("1", (20000, 9500)).save(large, "PNG")
    Image.new("1", (9, 9)).save(text, "PNG", pnginfo=_long_text())
    for content, fault in ((large, "more pixels than Pillow reads"), (text, "holds more text beside its pixels")):
        with pytest.raises(DataError, match=f"row 0: field 'image': {fault}.*; save it"):
            unpack_image(base64.b64encode(content.getvalue()).decode(), tmp_path / "1.jpg", "row 0")


def _long_text():
    info = PngInfo()
    info.add_text("Comment", "x" * 2_000_000, zip=True)
    return info
