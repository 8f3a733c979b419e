"""LLaVA-1.5's 665K rows, checked and repaired.

Two things are known to be wrong with them. Ids repeat. And images of OCR-VQA are missing: the rows name each of them
.jpg, but downloads also give .gif and .png files, and some cannot be fetched any more.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llava_mocle.data.formats.format import NO_IMAGE, Format, LeftOut, MakeOptions, OfficialFile, OfficialRows, Row
from llava_mocle.data.formats.images import FolderImages, inside
from llava_mocle.data.official_files import ID, field_or, streamed_records

_FILE = "llava_v1_5_mix665k.json"
_OCR_VQA = "the script that github.com/haotian-liu/LLaVA links"


class Llava665K(Format):
    """The rows keep their order, their texts and their image paths, apart from repaired endings.

    An id that was there before gets "-2", "-3" and so on.
    """

    name = "llava_665k"
    summary = "LLaVA-1.5's rows, with repeated ids and missing images repaired"
    task_group = "LLaVA-1.5 mix"
    files = (
        OfficialFile(
            _FILE, "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K", "1.03 GB", "CC BY 4.0 and OpenAI's terms"
        ),
        OfficialFile("coco/train2017", "images.cocodataset.org/zips/train2017.zip", "18 GB", "Flickr's terms"),
        OfficialFile("gqa/images", "downloads.cs.stanford.edu/nlp/data/gqa/images.zip", "20.3 GB", "not stated"),
        OfficialFile("ocr_vqa/images", _OCR_VQA, "not stated", "not stated"),
        OfficialFile(
            "textvqa/train_images", "dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip", "6.6 GB", "CC BY 2.0"
        ),
        OfficialFile("vg/VG_100K", "cs.stanford.edu/people/rak248/VG_100K_2/images.zip", "9.2 GB", "CC BY 4.0"),
        OfficialFile("vg/VG_100K_2", "cs.stanford.edu/people/rak248/VG_100K_2/images2.zip", "5.5 GB", "CC BY 4.0"),
    )
    rows = OfficialRows((665298,), "llava_v1_5_mix665k.json of liuhaotian/LLaVA-Instruct-150K; Liu et al., 2023: 665K")

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        path = source / _FILE
        pictures, folders = FolderImages(source), _Endings(source)
        taken = {str(record.get("id")) for _, record in streamed_records(path)}
        seen: set[str] = set()
        for number, (place, record) in enumerate(streamed_records(path)):
            row_id = _new_id(str(field_or(record, "id", place, ID, f"{self.name}-{number}")), seen, taken)
            name = field_or(record, "image", place, str | None, None)
            if name is None:
                yield {**record, "id": row_id}
                continue
            found = folders.find(name)
            image = pictures.place(found, images) if found else None
            yield NO_IMAGE if image is None else {**record, "id": row_id, "image": image}


class _Endings:
    """The files of folders that are not empty, found also where only their ending differs. Each is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}
        self._stems: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """The path of the file with this name, or else of the first one by name with another ending; or None."""
        path = PurePosixPath(inside(name))
        folder = str(path.parent)
        if folder not in self._names:
            names = self._listed(folder)
            self._names[folder] = set(names)
            self._stems[folder] = {PurePosixPath(file).stem: file for file in reversed(names)}
        if path.name in self._names[folder]:
            return name
        other = self._stems[folder].get(path.stem)
        return str(path.parent / other) if other else None

    def _listed(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._root / folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_file() and entry.stat().st_size)
        except OSError:  # a folder that is not there, or that no path can name: it has no such image
            return []


def _new_id(row_id: str, seen: set[str], taken: set[str]) -> str:
    """The id, or with the first number behind it that makes it new, whatever the other rows are called."""
    new, number = row_id, 2
    while new in seen or (new != row_id and new in taken):
        new, number = f"{row_id}-{number}", number + 1
    seen.add(new)
    return new
