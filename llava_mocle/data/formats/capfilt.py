"""Web CapFilt: BLIP's filtered captions of web images, which people download themselves."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.data.formats.format import NO_IMAGE, LeftOut, OfficialFile, OfficialRows
from llava_mocle.data.formats.images import FolderImages
from llava_mocle.data.formats.lavis_text import caption_text
from llava_mocle.data.formats.parquet import parquet_records
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.data.official_files import field, streamed_records
from llava_mocle.errors import DataError

_FOLDER, _SHARDS, _LIST = "capfilt", "capfilt/*.parquet", "capfilt/annotation.json"
_BLIP = "github.com/salesforce/BLIP, Pre-training datasets, CC3M+CC12M+SBU"
_LICENSE = "not stated; each image has its own"


class WebCapFilt(TemplatedFormat):
    """A folder that img2dataset wrote, or a list of captions with the paths of images that are there already.

    img2dataset (`--output_format files`) writes 00000.parquet beside the folder 00000 of its images: the columns `key`
    (an image's name), `caption`, and `status`, which is "success" where the image was fetched.

    The list, as in LAVIS: [{"image": "path/below/capfilt.jpg", "caption": "a boat"}]. It is read piece by piece.
    """

    name = "capfilt"
    summary = "BLIP's filtered captions of web images"
    task_group = "CAP"
    data_source = "Web CapFilt"
    files = (
        OfficialFile(
            _SHARDS,
            f"{_BLIP}: ccs_synthetic_filtered_large.json, fetched with img2dataset",
            "not stated",
            _LICENSE,
            form="img2dataset",
        ),
        OfficialFile(_LIST, f"{_BLIP}: captions and images of your own copy", "not stated", _LICENSE, form="list"),
    )
    rows = OfficialRows((), "images vanish from the web; LAVIS' configuration states 13,873,136 for its copy")

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        if self.form(source) == "list":
            yield from self._listed(source, images)
        else:
            for shard in self.paths(source, _SHARDS):
                yield from self._fetched(source, images, shard)

    def _fetched(self, source: Path, images: Path, shard: Path) -> Iterator[Sample | LeftOut]:
        folder = f"{_FOLDER}/{shard.stem}"
        fetched = FolderImages(source / folder)  # forgets the names of the shard before
        for place, record in parquet_records([shard], "key", "caption", "status"):
            if field(record, "status", place, str) != "success":
                yield NO_IMAGE
                continue
            key = field(record, "key", place, str)
            caption = caption_text(field(record, "caption", place, str | None) or "")
            yield Sample(key, fetched.place(f"{key}.jpg", images, folder), caption)

    def _listed(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        own = FolderImages(source / _FOLDER)
        for number, (place, record) in enumerate(streamed_records(source / _LIST)):
            caption = caption_text(field(record, "caption", place, str))
            yield Sample(str(number), own.place(_image_name(record, place), images, _FOLDER), caption)


def _image_name(record: Mapping[str, Any], place: str) -> str:
    if "image" not in record and "url" in record:
        raise DataError(
            f"{place}: has a 'url' and no 'image'; fetch the images with img2dataset into {_FOLDER}/, and move this "
            "file elsewhere."
        )
    return field(record, "image", place, str)
