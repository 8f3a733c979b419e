"""The medical domain: slices of the MNI152 average brain, and CT, ultrasound, fundus and histology pictures.

It teaches nothing clinical: the questions are about how a picture was made and which way it is cut. Training and test
images come from different slice ranges, files, frames, or regions of one large picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llava_mocle.errors import AssetError
from playground.domains import scans
from playground.domains.nifti import read_nifti
from playground.domains.rows import Captioned, Fact, Row, balanced, write_domain

NAME = "medical"
TRAIN_QUOTA = {"plane": 400, "contrast": 380, "modality": 250, "organ": 150, "level": 200, "yesno": 120}
TEST_QUOTA = {"plane": 28, "contrast": 24, "modality": 18, "organ": 10, "level": 12, "yesno": 8}

CONTRASTS = {"T1": "t1", "gray matter": "gm", "white matter": "wm"}
LEVELS = {"axial": ("lower", "middle", "upper"), "coronal": ("back", "middle", "front")}

PLANE_QUESTIONS = (
    "In which plane is this brain image cut?",
    "Is this brain slice axial, coronal or sagittal?",
    "Which plane does the scan show?",
)
CONTRAST_QUESTIONS = (
    "Does the scan show T1, gray matter or white matter?",
    "Which contrast does this brain image have?",
    "What tissue map of the brain is this?",
)
MODALITY_QUESTIONS = ("Which imaging modality is this?", "How was this medical image taken?")
ORGAN_QUESTIONS = ("Which organ is shown in this medical image?", "What part of the body was imaged?")
LEVEL_QUESTIONS = {
    "axial": "Is this slice from the lower, middle or upper part of the brain?",
    "coronal": "Is this slice from the front, middle or back of the brain?",
}


@dataclass(frozen=True)
class Scan:
    """What is known about a medical image; `plane`, `contrast` and `level` are None outside the brain volume."""

    modality: str
    organ: str | None = None
    plane: str | None = None
    contrast: str | None = None
    level: str | None = None

    @property
    def caption(self) -> str:
        if self.plane is None:
            return f"a {self.modality} image" + (f" of the {self.organ}" if self.organ else "")
        article = "an" if self.plane == "axial" else "a"
        return f"{article} {self.plane} {self.contrast} slice of the brain"


def facts_of(image: str, scan: Scan, rng: np.random.Generator) -> list[Fact]:
    """Everything that can be asked about an image."""
    facts = [Fact(image, "modality", scan.modality, str(rng.choice(MODALITY_QUESTIONS)))]
    if scan.organ is not None:
        facts.append(Fact(image, "organ", scan.organ, str(rng.choice(ORGAN_QUESTIONS))))
    if scan.contrast is not None:
        facts.append(Fact(image, "contrast", scan.contrast, str(rng.choice(CONTRAST_QUESTIONS))))
    if scan.plane is not None:
        facts.append(Fact(image, "plane", scan.plane, str(rng.choice(PLANE_QUESTIONS))))
        asked = str(rng.choice(list(scans.PLANES)))
        facts.append(
            Fact(image, "yesno", "yes" if asked == scan.plane else "no", f"Is this a slice in the {asked} plane?")
        )
    if scan.plane in LEVELS and scan.level is not None:
        facts.append(Fact(image, "level", scan.level, LEVEL_QUESTIONS[scan.plane]))
    return facts


def _spread(items: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """`count` items, each used about equally often."""
    rounds = [rng.permutation(items) for _ in range(-(-count // len(items)))]
    return [int(i) for i in np.concatenate(rounds)[:count]]


def brain_images(
    assets: Path, split: str, per_view: int, rng: np.random.Generator
) -> Iterator[tuple[Image.Image, Scan]]:
    """Slices of the MNI152 T1, grey and white matter volumes: `per_view` of each plane and contrast."""
    for contrast, short in CONTRASTS.items():
        path = assets / "mni152" / f"mni_icbm152_{short}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise AssetError(f"{path}: not found. Run: python -m playground.fetch_assets --only medical")
        voxels = scans.brain_box(read_nifti(path).voxels)
        high = float(np.percentile(voxels[voxels > 0][::50], 99.5))
        for plane, axis in scans.PLANES.items():
            length = voxels.shape[axis]
            for index in _spread(scans.slice_indices(length, split), per_view, rng):
                gray = scans.to_gray(scans.brain_slice(voxels, plane, index), 0, high)
                level = LEVELS[plane][scans.level_of(index, length)] if plane in LEVELS else None
                yield scans.jittered(gray, rng), Scan("MRI", "brain", plane, contrast, level)


def other_images(
    assets: Path, split: str, per_source: int, rng: np.random.Generator
) -> Iterator[tuple[Image.Image, Scan]]:
    """`per_source` crops each of CT, ultrasound, fundus and histology pictures.

    The test images are, for CT: another file; ultrasound: later frames; fundus and histology: the right of the picture.
    """
    training = split == "train"
    dicom = assets / "dicom"
    for name in ("693_J2KI", "CT_small") if training else ("J2K_pixelrep_mismatch",):
        picture = scans.read_dicom(dicom / f"{name}.dcm")[0]
        for _ in range(per_source // 2 if training else per_source):
            yield scans.random_crop(picture, (0, 1), (0.7, 1.0), rng), Scan("CT")
    frames = scans.read_dicom(dicom / "examples_ybr_color.dcm")
    for index in _spread(list(range(20) if training else range(23, 30)), per_source, rng):
        yield scans.random_crop(frames[index], (0.12, 0.88), (0.7, 0.85), rng), Scan("ultrasound", "heart")
    band = (0.0, 0.62) if training else (0.64, 1.0)
    for name, scan in (("retina.jpg", Scan("fundus", "eye")), ("ihc.png", Scan("histology", "tissue"))):
        with Image.open(assets / "skimage" / name) as picture:
            for _ in range(per_source):
                yield scans.random_crop(picture, band, (0.3, 0.36) if not training else (0.3, 0.6), rng), scan


def make(
    assets: Path,
    data: Path,
    seed: int = 0,
    brain_per_view: tuple[int, int] = (34, 7),
    per_source: tuple[int, int] = (30, 6),
    train_quota: Mapping[str, int] = TRAIN_QUOTA,
    test_quota: Mapping[str, int] = TEST_QUOTA,
) -> list[Row]:
    """Make the domain under `data/medical` (image paths in rows are relative to `data`).

    Args:
        assets: folder of the fetched parts (`mni152`, `dicom`, `skimage`).
        brain_per_view: (training, test) slices of each plane and contrast.
        per_source: (training, test) crops of each other modality.

    Returns:
        The stage-1 caption rows.
    """
    rng = np.random.default_rng([seed, 3])
    (data / NAME / "images").mkdir(parents=True, exist_ok=True)
    facts: dict[str, list[Fact]] = {"train": [], "test": []}
    captioned: list[Captioned] = []
    for index, split in enumerate(("train", "test")):
        images = [
            *brain_images(assets, split, brain_per_view[index], rng),
            *other_images(assets, split, per_source[index], rng),
        ]
        for number, (image, scan) in enumerate(images):
            path = f"{NAME}/images/{split}_{number:04d}.png"
            image.save(data / path, compress_level=1)
            facts[split] += facts_of(path, scan, rng)
            if split == "train":
                captioned.append(Captioned(path, scan.caption))
    train = balanced(facts["train"], train_quota, rng)
    return write_domain(NAME, data, train, balanced(facts["test"], test_quota, rng), captioned, rng)
