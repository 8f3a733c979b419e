from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from llava_mocle.data.images import ImageUnreadable, load_image, mean_colour, pad_to_square, probe_image, process_image
from llava_mocle.errors import ConfigError


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


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
    with pytest.raises(ImageUnreadable, match="no such image; check `image_folder`"):
        load_image(missing)


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
