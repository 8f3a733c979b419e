import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from llava_mocle.data.image_limits import ImageMissing, ImageOverLimit, ImageUnreadable, check_shape
from llava_mocle.data.images import image_size, load_image, mean_colour, pad_to_square, probe_image, process_image
from llava_mocle.errors import ConfigError


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_the_size_is_read_from_the_header(tmp_path: Path) -> None:
    whole = save(Image.new("RGB", (40, 30), (1, 2, 3)), tmp_path / "whole.bmp")
    assert image_size(whole) == (40, 30)
    # The pixels are gone, the header is not.
    (tmp_path / "cut.bmp").write_bytes(whole.read_bytes()[:60])
    assert image_size(tmp_path / "cut.bmp") == (40, 30)
    (tmp_path / "none.bmp").write_bytes(b"text")
    with pytest.raises(ImageUnreadable, match=r"none\.bmp"):
        image_size(tmp_path / "none.bmp")


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    files = {
        "grey": (Image.new("L", (2, 2), 100), (100, 100, 100)),
        "palette": (Image.new("RGB", (2, 2), (10, 200, 30)).quantize(4), (10, 200, 30)),
        "clear": (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), (10, 20, 30)),
        "half": (Image.new("LA", (2, 2), (7, 128)), (7, 7, 7)),
        "bits": (Image.new("1", (2, 2), 1), (255, 255, 255)),
    }
    for name, (image, colour) in files.items():
        loaded = load_image(save(image, tmp_path / f"{name}.png"))
        assert loaded.mode == "RGB", name
        assert loaded.getpixel((0, 0)) == colour, name
    wide = load_image(save(Image.fromarray(ramp), tmp_path / "wide.png"))
    expected = np.round(ramp / 257 - 0.5 + 1e-9).astype(np.uint8)
    assert np.array_equal(np.asarray(wide)[..., 0], expected)
    assert np.asarray(wide).max() > 250  # PIL's own conversion would clip all but the darkest to white
    cmyk = load_image(save(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), tmp_path / "cmyk.jpg"))
    assert cmyk.mode == "RGB"


def test_pictures_are_those_of_llava(tmp_path: Path) -> None:
    """`Image.open(path).convert("RGB")`, to the byte: transparency is dropped, the orientation tag is left aside."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 2, 4), dtype=np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    files = [
        save(picture, tmp_path / "alpha.png"),
        save(picture.convert("LA"), tmp_path / "grey_alpha.png"),
        save(palette, tmp_path / "palette.png", transparency=0),
        save(picture.convert("RGB"), tmp_path / "turned.jpg", exif=exif),
        save(picture.convert("RGB"), tmp_path / "colour_key.png", transparency=(1, 2, 3)),
        save(picture.convert("CMYK"), tmp_path / "cmyk.jpg"),
    ]
    for file in files:
        loaded = load_image(file)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), np.asarray(Image.open(file).convert("RGB"))), file.name
    assert load_image(files[3]).size == (2, 4)


def test_unreadable_images(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    text = tmp_path / "text.png"
    text.write_text("no image")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cut = []
    for suffix in ("png", "jpg"):
        whole = save(noise, tmp_path / f"whole.{suffix}")
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        probe_image(whole)
        cut.append(path)
    for path in (missing, text, empty, *cut, tmp_path):
        for read in (load_image, probe_image):
            with pytest.raises(ImageUnreadable, match=str(path)):
                read(path)
    with pytest.raises(ImageMissing, match=r"no such image \(no such file or directory\); check `image_folder`"):
        load_image(missing)


def plain_error(path: Path) -> Exception | None:
    """What Pillow itself raises for a file."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow says of damaged tags
def test_whatever_a_decoder_raises_is_an_unreadable_image(tmp_path: Path) -> None:
    """Damaged AVIF raises RuntimeError in Pillow, whatever the file is called."""
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    kinds = set()
    for suffix in ("avif", "webp", "dds", "qoi", "tiff"):
        whole = save(noise, tmp_path / f"whole.{suffix}").read_bytes()
        for number in range(60):
            damaged = bytearray(whole)
            for place in generator.integers(4, min(400, len(whole)), 4):
                damaged[place] = generator.integers(256)
            path = tmp_path / "damaged.png"
            path.write_bytes(damaged if number % 3 else whole[: len(whole) * number // 60])
            error = plain_error(path)
            for read in (load_image, probe_image):
                if error is None:
                    read(path)
                else:
                    with pytest.raises(ImageUnreadable, match=r"damaged\.png: ") as caught:
                        read(path)
                    assert "\n" not in str(caught.value)
            kinds.add(type(error))
    assert {RuntimeError, ValueError, type(None)} <= kinds


def test_an_error_without_words_is_named_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("RGB", (2, 2)), tmp_path / "a.png")
    for error in (KeyError("x"), ZeroDivisionError(), AttributeError("y"), IndexError("z"), OverflowError()):
        monkeypatch.setattr(Image, "open", lambda path, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(ImageUnreadable, match=rf"a\.png: can't be read as an image \({type(error).__name__}: "):
            load_image(path)
    monkeypatch.setattr(Image, "open", lambda path: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError, match=r"a\.png: not enough memory"):
        load_image(path)


def test_limits_of_pillow_are_told_as_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PngInfo()
    text.add_text("prompt", "x" * (2 << 20), zip=True)
    chatty = save(Image.new("RGB", (4, 4)), tmp_path / "chatty.png", pnginfo=text)
    many = PngInfo()
    for number in range(70):
        many.add_text(f"k{number}", "x" * (1 << 20), zip=True)
    full = save(Image.new("RGB", (4, 4)), tmp_path / "full.png", pnginfo=many)
    for path in (chatty, full):
        with pytest.raises(ImageOverLimit, match=r"text.*; save it again without its text chunks"):
            probe_image(path)
    large = save(Image.new("1", (20_000, 10_000)), tmp_path / "large.png")  # 200 megapixels; Pillow's limit is 179
    for read in (load_image, probe_image):
        with pytest.raises(ImageOverLimit, match=r"large\.png: more pixels than Pillow reads \(.*\); save it smaller"):
            read(large)


def test_paths_at_which_there_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file").touch()
    paths = {
        str(tmp_path): "it is a folder",
        str(tmp_path / "pipe.png"): "it is no regular file",
        str(tmp_path / "a\0b.png"): "embedded null byte",
        str(tmp_path / ("iVBORw0KGgo" * 3000)): "file name too long",
        str(tmp_path / "file" / "a.png"): "not a directory",
        str(tmp_path / "half \ud83d.png"): "surrogates not allowed",
        str(tmp_path / "two\nlines.png"): "no such file or directory",
    }
    for path, reason in paths.items():
        for read in (load_image, probe_image):
            with pytest.raises(ImageMissing, match=rf"no such image \(.*{reason}.*\); check") as caught:
                read(path)
            assert len(str(caught.value)) < 600
            assert str(caught.value).isprintable()


def test_an_image_that_nobody_may_open_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("RGB", (2, 2)), tmp_path / "a.png")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # a user other than root gets it from the system

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageMissing, match=r"a\.png: no such image \(permission denied\)"):
        load_image(path)


@pytest.mark.parametrize(
    ("size", "ratio", "message"),
    [
        ((1, 20_000), "square", r"1 x 20000 pixels \(1 to 20,000\) would become 336 x 6720000 .*; crop it$"),
        ((20_000, 1), "square", r"would become 6720000 x 336 with image_aspect_ratio square: 2,258 megapixels of at"),
        ((10, 6000), "square", r"would become 336 x 201600 .*of at most 67; crop it, or use image_aspect_ratio pad"),
        ((1, 20_000), "pad", r"become 20000 x 20000 with image_aspect_ratio pad: 400 megapixels of at most 179; crop"),
        ((1, 594), "square", None),
        ((13_000, 1000), "pad", None),
        ((4000, 3000), "square", None),
    ],
)
def test_thin_images_are_refused_before_they_are_resized(
    size: tuple[int, int], ratio: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if message is None:
        check_shape(size, ratio, 336)
        return
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(CLIPImageProcessorPil, "__call__", work)
    monkeypatch.setattr("llava_mocle.data.images.pad_to_square", work)
    with pytest.raises(ImageOverLimit, match=rf"^strip\.png: .*{message}"):
        process_image(Image.new("RGB", size), processor, ratio, "strip.png")


def test_what_does_not_grow_is_not_refused() -> None:
    """SigLIP's processor resizes to a square of its own, and a longest edge bounds the other one."""
    strip = Image.new("RGB", (1, 20_000))
    siglip = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    assert process_image(strip, siglip, "square").shape == (3, 16, 16)
    bounded = CLIPImageProcessorPil(
        size={"shortest_edge": 336, "longest_edge": 2000}, crop_size={"height": 336, "width": 336}
    )
    assert process_image(Image.new("RGB", (20, 20_000)), bounded, "square").shape == (3, 336, 336)


@pytest.mark.parametrize("size", [(3, 8), (8, 3), (7, 4), (5, 5)])
def test_pad_to_square_is_centred(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    padded = np.asarray(pad_to_square(Image.fromarray(picture), (1, 2, 3)))
    side = max(size)
    expected = np.empty((side, side, 3), np.uint8)
    expected[:] = (1, 2, 3)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    expected[top : top + size[1], left : left + size[0]] = picture
    assert np.array_equal(padded, expected)


def test_mean_colour_is_rounded_down(image_processor: CLIPImageProcessorPil) -> None:
    assert mean_colour(image_processor) == (122, 114, 102)  # int(0.48 * 255), int(0.45 * 255), int(0.4 * 255)
    assert mean_colour(CLIPImageProcessorPil()) == (122, 116, 104)  # CLIP's, as LLaVA-1.5 pads
    assert mean_colour(object()) == (127, 127, 127)


def test_padding_is_about_zero_after_normalisation(image_processor: CLIPImageProcessorPil) -> None:
    pixels = process_image(Image.new("RGB", (64, 16), (255, 255, 255)), image_processor)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    # One grey level is 1 / 255 / std = 0.015; padding rounds down by less than that.
    assert pixels[:, 0, :].abs().max() < 0.016
    assert pixels[:, 8, :].min() > 1


def test_square_hands_the_picture_over_as_it_is(image_processor: CLIPImageProcessorPil) -> None:
    image = Image.new("RGB", (64, 16), (255, 255, 255))
    expected = image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(process_image(image, image_processor, "square"), expected)
    with pytest.raises(ConfigError, match=r"anyres.*pad, square"):
        process_image(image, image_processor, "anyres")


def test_a_line_that_no_decoder_takes_is_over_a_limit(tmp_path: Path) -> None:
    """Decoders answer it with a MemoryError, so that nothing could skip it."""
    path = tmp_path / "line.ppm"
    path.write_bytes(b"P6\n170000000 1\n255\n")
    for read in (load_image, probe_image):
        with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageOverLimit, match="170000000 x 1 pixels"):
            read(path)


def test_a_decoder_that_is_not_installed_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("RGB", (9, 9)), tmp_path / "drawing.eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", False)  # as where Pillow found no Ghostscript
    with pytest.raises(ImageUnreadable, match=r"needs a decoder that is not installed.*; save it as PNG or JPEG"):
        load_image(path)
