import base64

import pytest
from PIL import Image, ImageFile

from llava_mocle.serving.pictures import FORMATS, picture_of
from llava_mocle.serving.question import Limits
from llava_mocle.serving.refusal import Refusal
from tests.serving.pngs import bomb, png, uri


def test_a_picture_is_kept_as_it_was_sent():
    content = png()
    picture = picture_of(uri(content), Limits(), "url")
    assert (picture.content, picture.format, picture.size) == (content, "PNG", (6, 4))
    assert picture.data_uri() == uri(content)
    assert picture.image().getpixel((0, 0)) == (200, 30, 30)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(form, tmp_path):
    Image.new("RGB", (8, 5)).save(tmp_path / "a", form)
    # What the client calls it does not count.
    picture = picture_of(uri((tmp_path / "a").read_bytes(), "image/x-unknown"), Limits(), "url")
    assert (picture.format, picture.size) == (form, (8, 5))


def test_a_photo_with_a_second_one_behind_it(tmp_path):
    """As phones write it: what Pillow calls MPO, and everyone else a JPEG."""
    first, second = Image.new("RGB", (8, 5), (200, 30, 30)), Image.new("RGB", (4, 4))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    picture = picture_of(uri((tmp_path / "a.jpg").read_bytes(), "image/jpeg"), Limits(), "url")
    assert picture.data_uri().startswith("data:image/jpeg;base64,")
    image = picture.image().convert("RGB")
    assert image.size == (8, 5)
    # JPEG rounds a plain colour by a few steps.
    assert all(abs(found - sent) < 6 for found, sent in zip(image.getpixel((3, 3)), (200, 30, 30), strict=True))


def test_a_bomb_is_refused_by_its_header(monkeypatch):
    def load(self):
        raise AssertionError("an image is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    content = bomb()
    assert len(content) < 20_000
    with pytest.raises(Refusal, match="144,000,000 pixels") as found:
        picture_of(uri(content), Limits(), "url")
    assert found.value.status == 413
    # More than Pillow itself reads.
    with pytest.raises(Refusal) as found:
        picture_of(uri(bomb(24_000)), Limits(), "url")
    assert found.value.status == 413


def test_a_line_is_refused_by_its_longer_side():
    """20,000 x 1 pixels are few. The model may make a square of them."""
    content = png(20_000, 1)
    with pytest.raises(Refusal, match=r"20000 x 1 are 20,000 pixels.* 8,192 on a side") as found:
        picture_of(uri(content), Limits(), "url")
    assert found.value.status == 413
    assert picture_of(uri(content), Limits(side=20_000), "url").size == (20_000, 1)


def test_a_bomb_of_this_kind_is_a_picture(tmp_path):
    """The same bytes at a side that may be decoded, so that the refusal is about the size."""
    picture = picture_of(uri(bomb(64)), Limits(), "url")
    assert picture.size == (64, 64)
    assert picture.image().getpixel((3, 3)) == 0


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://example.org/a.png", 400),
        ("file:///etc/passwd", 400),
        ("", 400),
        ("data:image/png,abc", 400),
        ("data:image/png;base64", 400),
        ("data:image/png;base64,@@@@", 400),
        ("data:image/png;base64,", 400),
        (uri(b"no image at all"), 400),
        (uri(b"%PDF-1.4"), 400),
        (uri(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"), 400),
        ("data:image/png;base64," + base64.b64encode(bytes(1 << 20)).decode(), 413),
    ],
)
def test_what_is_no_picture(url, status):
    with pytest.raises(Refusal) as found:
        picture_of(url, Limits(image_bytes=1 << 19), "url")
    assert found.value.status == status
    assert found.value.param == "url"
