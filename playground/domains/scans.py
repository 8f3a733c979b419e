"""Reading medical source pictures and cutting training and test images from disjoint parts of them."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from llava_mocle.errors import AssetError, DataError

SIZE = 224
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}

# Test slices come from these stretches of each axis (fractions of its length), one in each third of the brain;
# training slices keep `GUARD` slices away from them, since neighbours look alike.
TEST_STRETCHES = ((0.22, 0.27), (0.47, 0.53), (0.73, 0.78))
TRAIN_STRETCH = (0.12, 0.88)
GUARD = 2


def slice_indices(length: int, split: str) -> list[int]:
    """The slice numbers of a split along an axis of `length` slices; training ones keep a guard distance to test."""
    test = [i for start, stop in TEST_STRETCHES for i in range(round(start * length), round(stop * length) + 1)]
    if split == "test":
        return test
    near = {i + d for i in test for d in range(-GUARD, GUARD + 1)}
    return [i for i in range(round(TRAIN_STRETCH[0] * length), round(TRAIN_STRETCH[1] * length)) if i not in near]


def level_of(index: int, length: int) -> int:
    """Which part a slice lies in: 0, 1 or 2, from low to high coordinates."""
    fraction = index / length
    return 0 if fraction < 0.37 else 1 if fraction < 0.63 else 2


def to_gray(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] to uint8 0..255, clipping outside."""
    scaled = (values.astype(np.float32) - low) / max(high - low, 1e-6)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def brain_box(voxels: np.ndarray, margin: int = 3) -> np.ndarray:
    """The part of a volume that holds anything, with a margin of voxels around it."""
    box = []
    for axis in range(3):
        used = np.flatnonzero(voxels.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, used[0] - margin), used[-1] + margin + 1))
    return voxels[tuple(box)]


def brain_slice(voxels: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A 2-D slice with the top of the head (or the front, in axial slices) up; x, y, z grow right, front, up."""
    return np.rot90(np.moveaxis(voxels, PLANES[plane], 0)[index])


def jittered(gray: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A slice pasted at a slightly random size, place and brightness on a black square of `SIZE` pixels, as RGB."""
    image = Image.fromarray(gray)
    scale = SIZE * rng.uniform(0.86, 0.98) / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.85, 1.1)))
    canvas = Image.new("L", (SIZE, SIZE))
    left = (SIZE - image.width) // 2 + int(rng.integers(-4, 5))
    top = (SIZE - image.height) // 2 + int(rng.integers(-4, 5))
    canvas.paste(image, (left, top))
    return canvas.convert("RGB")


def random_crop(
    image: Image.Image, across: tuple[float, float], side: tuple[float, float], rng: np.random.Generator
) -> Image.Image:
    """A random square crop that stays within a vertical band of the image.

    Args:
        across: left and right edge of the band, as fractions of the width.
        side: range of the crop's side, as fractions of the image's shorter side.

    Returns:
        RGB image of `SIZE` pixels a side.
    """
    left, right = (round(v * image.width) for v in across)
    length = min(int(min(image.size) * rng.uniform(*side)), right - left)
    x = left + int(rng.integers(0, right - left - length + 1))
    y = int(rng.integers(0, image.height - length + 1))
    crop = image.crop((x, y, x + length, y + length)).convert("RGB")
    return crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def read_dicom(path: Path) -> list[Image.Image]:
    """The frames of a DICOM file as 8-bit images, grey levels stretched between their 1st and 99.5th percentile.

    Raises:
        AssetError: pydicom isn't installed, or the file isn't there.
        DataError: the file cannot be decoded.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise AssetError("pydicom isn't installed, which reads the DICOM images. Run: pip install 'llava_mocle[demo]'")
    import pydicom

    if not path.is_file():
        raise AssetError(f"{path}: not found. Run: python -m playground.fetch_assets --only medical")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's test files bend the standard on purpose
            pixels = pydicom.dcmread(path).pixel_array
    except Exception as error:  # pydicom raises many kinds for one broken file
        raise DataError(f"{path}: cannot be decoded as DICOM ({type(error).__name__}: {error}).") from error
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        frames = list(pixels)
    else:
        frames = [pixels]
    low, high = np.percentile(pixels, [1, 99.5])
    return [Image.fromarray(f if f.dtype == np.uint8 else to_gray(f, low, high)) for f in frames]
