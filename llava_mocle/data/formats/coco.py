"""Images of COCO, as several datasets name them, and COCO's captions."""

from collections.abc import Iterator
from pathlib import Path

from llava_mocle.data.formats.format import LeftOut, OfficialFile, OfficialRows
from llava_mocle.data.formats.images import official_images
from llava_mocle.data.formats.lavis_text import caption_text
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.data.official_files import ID, field, places, read_json, whole_number
from llava_mocle.errors import DataError

TRAIN_2014, TRAIN_2017 = "coco/train2014", "coco/train2017"
_IMAGE_LICENSE = "Flickr's terms of use; each photo has its own"
TRAIN_2014_FILE = OfficialFile(
    f"{TRAIN_2014}*", "cocodataset.org/#download, 2014 Train images (.zip, or unpacked)", "13 GB", _IMAGE_LICENSE
)
TRAIN_2017_FILE = OfficialFile(
    f"{TRAIN_2017}*", "cocodataset.org/#download, 2017 Train images (.zip, or unpacked)", "18 GB", _IMAGE_LICENSE
)
_CAPTIONS = "coco/annotations/captions_train2014.json"
_PREFIX_2014 = "COCO_train2014_"


class CocoTrainImages:
    """The images of a training split of COCO: `TRAIN_2014` or `TRAIN_2017`."""

    def __init__(self, source: Path, images: Path, split: str) -> None:
        self._official = official_images(source, split, f"{split}.zip")
        self._images = images
        self._split = split
        self._prefix = _PREFIX_2014 if split == TRAIN_2014 else ""

    def numbered(self, number: int) -> str | None:
        """The path, relative to the images folder, of the image with this number; None where it is missing."""
        return self.named(f"{self._prefix}{number:012d}.jpg")

    def named(self, name: str) -> str | None:
        """The same by the image's file name."""
        return self._official.place(name, self._images, self._split)


class CocoCaptions(TemplatedFormat):
    """Captions of train2014 only, one sample a caption.

    LAVIS takes Karpathy's training split instead, which also has 30,504 images of val2014. Those are images of the
    benchmarks VQAv2 val, OK-VQA and POPE.

    {"images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}],
     "annotations": [{"id": 48, "image_id": 9, "caption": "A cat on a mat."}]}
    """

    name = "coco_cap"
    summary = "COCO's captions of train2014"
    task_group = "CAP"
    data_source = "COCO"
    files = (
        OfficialFile(
            _CAPTIONS, "cocodataset.org/#download, 2014 Train/Val annotations", "241 MB as a zip", "CC BY 4.0"
        ),
        TRAIN_2014_FILE,
    )
    rows = OfficialRows((414113,), "captions_train2014.json, of 82,783 images (cocodataset.org)")

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        path = source / _CAPTIONS
        content = read_json(path)
        coco = CocoTrainImages(source, images, TRAIN_2014)
        names = {}
        for place, record in places(path, field(content, "images", str(path))):
            name = field(record, "file_name", place, str)
            if not name.startswith(_PREFIX_2014):
                raise DataError(f"{place}: file_name is {name!r:.60}, expected an image of train2014: another split.")
            names[field(record, "id", place, ID)] = name
        for place, record in places(path, field(content, "annotations", str(path))):
            image = field(record, "image_id", place, ID)
            if image not in names:
                raise DataError(f"{place}: image_id {image!r:.60} is none of the file's images; fetch the file again.")
            key = str(whole_number(record, "id", place))
            caption = caption_text(field(record, "caption", place, str))
            yield Sample(key, coco.named(names[image]), caption)
