"""The domains on small synthetic sources: valid rows, disjoint images, reproducible, errors that help."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_mocle.errors import AssetError, DataError
from playground.domains import emoji, figures, geometry, medical, natural, scans
from playground.domains.rows import kind_of
from tests.playground.test_nifti import nifti_bytes

QUESTIONS = [
    ["what color is the shape?", "blue"],
    ["what is the blue shape?", "circle"],
    ["is there a circle?", "yes"],
    ["is there a red shape?", "no"],
]


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    root = tmp_path_factory.mktemp("assets")
    rng = np.random.default_rng(0)

    def noise(path: Path, size: tuple[int, int], mode: str = "RGB") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], len(mode)), np.uint8), mode).save(path)

    for concept in emoji.CONCEPTS:
        for code in concept.train + concept.test:
            noise(root / "fluent-emoji" / f"{code}.webp", (32, 32), "RGBA")
    for photo in natural.TRAIN_PHOTOS + natural.TEST_PHOTOS:
        noise(root / photo.path, (48, 40))
    for split in ("train", "test"):
        folder = root / "easy_vqa" / split
        for number in range(6):
            noise(folder / "images" / f"{number}.png", (16, 16))
        questions = [[q, a, number] for number in range(6) for q, a in QUESTIONS]
        (folder / "questions.json").write_text(json.dumps(questions))
    (root / "mni152").mkdir()
    for short in medical.CONTRASTS.values():
        voxels = rng.integers(1, 1000, (40, 44, 36)).astype("i2")
        path = root / "mni152" / f"mni_icbm152_{short}_tal_nlin_sym_09a_converted.nii.gz"
        path.write_bytes(gzip.compress(nifti_bytes(voxels, 4), 1))
    for name in ("retina.jpg", "ihc.png"):
        noise(root / "skimage" / name, (120, 120))
    return root


@pytest.fixture
def frames(monkeypatch):
    """Stands in for the DICOM files."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80), np.uint8))
    monkeypatch.setattr(scans, "read_dicom", lambda path: [image] * 30)


SMALL = {
    natural: {"images_per_concept": (2, 1), "images_per_photo": (2, 1)},
    geometry: {"shape_images": (4, 3), "figures_per_kind": (5, 4)},
    medical: {"brain_per_view": (2, 1), "per_source": (4, 2)},
}


@pytest.fixture(params=SMALL, ids=lambda module: module.NAME)
def domain(request):
    return request.param


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_rows_and_images(domain, assets, frames, tmp_path):
    captions = domain.make(assets, tmp_path, seed=3, **SMALL[domain])
    splits = {split: read(tmp_path / domain.NAME / f"{split}.json") for split in ("train", "test", "captions")}
    assert splits["captions"] == captions
    for split, rows in splits.items():
        assert rows
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            human, gpt = row["conversations"]
            assert (human["from"], gpt["from"]) == ("human", "gpt")
            assert human["value"].startswith("<image>\n")
            assert 1 <= len(gpt["value"].split()) <= (4 if split == "test" and kind_of(row) != "caption" else 8)
            with Image.open(tmp_path / row["image"]) as image:
                image.load()
                assert image.mode == "RGB"
    images = {split: {row["image"] for row in rows} for split, rows in splits.items()}
    assert not images["train"] & images["test"]
    assert not images["captions"] & images["test"]
    assert images["train"] <= images["captions"]
    assert {kind_of(row) for row in splits["test"]} <= {kind_of(row) for row in splits["train"]}


def test_same_seed_same_files(domain, assets, frames, tmp_path):
    contents = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        domain.make(assets, tmp_path / name, seed=seed, **SMALL[domain])
        root = tmp_path / name / domain.NAME
        contents.append({str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_quotas_have_the_same_kinds_and_a_hundred_test_rows(domain):
    assert set(domain.TEST_QUOTA) == set(domain.TRAIN_QUOTA)
    assert sum(domain.TEST_QUOTA.values()) == 100


@pytest.mark.parametrize(
    ("module", "lost", "message"),
    [
        (natural, "fluent-emoji/1f408.webp", r"no picture of U\+1F408"),
        (geometry, "easy_vqa/train/questions.json", "cannot be read"),
        (medical, "mni152/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", "not found"),
    ],
)
def test_missing_sources_name_the_file_and_the_remedy(module, lost, message, assets, frames, tmp_path):
    content = (assets / lost).read_bytes()
    (assets / lost).unlink()
    try:
        with pytest.raises(AssetError, match=message) as error:
            module.make(assets, tmp_path, **SMALL[module])
    finally:
        (assets / lost).write_bytes(content)
    assert "python -m playground.fetch_assets" in str(error.value)


def test_slices_of_the_splits_are_apart():
    for length in (36, 189, 197, 233):
        train, test = scans.slice_indices(length, "train"), scans.slice_indices(length, "test")
        assert min(abs(a - b) for a in train for b in test) > scans.GUARD
        assert {scans.level_of(i, length) for i in train} == {scans.level_of(i, length) for i in test} == {0, 1, 2}


def test_brain_slice_axes():
    voxels = np.zeros((4, 5, 6), np.int16)
    voxels[1, 2, 5] = 7  # the topmost voxel
    sagittal = scans.brain_slice(voxels, "sagittal", 1)
    assert sagittal.shape == (6, 5)
    assert sagittal[0, 2] == 7
    assert scans.brain_slice(voxels, "coronal", 2)[0, 1] == 7
    assert scans.brain_slice(voxels, "axial", 5)[5 - 1 - 2, 1] == 7


def test_brain_box_keeps_the_content():
    voxels = np.zeros((20, 20, 20), np.int16)
    voxels[8:12, 9, 10] = 1
    box = scans.brain_box(voxels, margin=1)
    assert box.shape == (6, 3, 3)
    assert box.sum() == 4


@pytest.mark.parametrize("degrees", figures.ANGLES)
def test_angle_has_its_size(degrees):
    """The filled sector covers degrees / 360 of its disc."""
    pixels = np.asarray(figures.draw_angle(degrees, np.random.default_rng(degrees))).astype(int)
    sector = (abs(pixels - (235, 140, 40)).sum(axis=-1) < 60).sum()
    expected = np.pi * (0.14 * figures.SIZE) ** 2 * degrees / 360
    # Pixels on the sector's edge are mixed; the next angle's sector is 258 pixels larger or smaller.
    assert sector == pytest.approx(expected, abs=60)


@pytest.mark.parametrize("length", figures.LENGTHS)
def test_bar_has_its_length(length):
    pixels = np.asarray(figures.draw_bar(length, np.random.default_rng(length))).astype(int)
    bar = (abs(pixels - (60, 40, 160)).sum(axis=-1) < 30).any(axis=0).sum()
    assert bar / figures.SIZE * 10 == pytest.approx(length, abs=0.15)


@pytest.mark.parametrize("longer", figures.COLORS)
def test_longer_bar_is_longer(longer):
    pixels = np.asarray(figures.draw_comparison(longer, np.random.default_rng(1))).astype(int)
    area = {name: (abs(pixels - color).sum(axis=-1) < 30).sum() for name, color in figures.COLORS.items()}
    assert max(area, key=lambda name: area[name]) == longer


def test_concepts_are_distinct():
    codes = [code for concept in emoji.CONCEPTS for code in concept.train + concept.test]
    assert len(set(codes)) == len(codes)
    assert len({concept.name for concept in emoji.CONCEPTS}) == len(emoji.CONCEPTS)
    assert all(concept.train and concept.test for concept in emoji.CONCEPTS)


def test_background_of_a_rendered_emoji():
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image = emoji.render_emoji(picture, emoji.BACKGROUNDS["blue"], np.random.default_rng(0), 64)
    assert image.size == (64, 64)
    assert abs(np.asarray(image).astype(int) - emoji.BACKGROUNDS["blue"]).max() <= 10


def test_dicom_errors(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(scans.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(AssetError, match="pydicom isn't installed"):
            scans.read_dicom(tmp_path / "x.dcm")
    pytest.importorskip("pydicom", reason="the 'demo' extra is not installed")
    with pytest.raises(AssetError, match="not found"):
        scans.read_dicom(tmp_path / "x.dcm")
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be decoded"):
        scans.read_dicom(tmp_path / "x.dcm")
