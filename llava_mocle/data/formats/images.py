"""Images of official releases, out of folders, zip archives and parquet files, into one images folder.

An image that is there already with the same bytes is left alone. No name leads out of the images folder.
"""

import filecmp
import hashlib
import io
import os
import shutil
import uuid
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from llava_mocle.errors import DataError
from llava_mocle.io.files import written_aside
from llava_mocle.io.paths import why_no_file
from llava_mocle.io.text import not_unicode

_CHUNK = 1 << 20
# Pillow's names of formats, and the endings that their files have here. Others get the name in small letters.
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


class OfficialImages(ABC):
    """The images of one release, by the names that its records use."""

    def __init__(self) -> None:
        self._placed: dict[str, str] = {}

    def place(self, name: str, images: Path, under: str = "") -> str | None:
        """Put an image into the images folder, unless the same bytes are there already.

        Args:
            name: the name in the official records: a relative path with slashes.
            under: the folder below `images` that it goes to; "" for `images` itself.

        Returns:
            its path relative to `images`; None where the release has no such image, or an empty file.

        Raises:
            DataError: the name leads out of the folder, or the archive is damaged.
        """
        if name not in self._placed:
            target = inside(f"{under}/{name}" if under else name)
            inside(name)
            if not self._put(name, images / target):
                return None
            self._placed[name] = target
        return self._placed[name]

    def digest(self, name: str) -> bytes | None:
        """The SHA-256 of an image's bytes; None where the release has no such image, or an empty file."""
        data = self._read(inside(name))
        return hashlib.sha256(data).digest() if data else None

    @abstractmethod
    def _read(self, name: str) -> bytes | None:
        """An image's bytes; None where there is no such image."""

    @abstractmethod
    def _put(self, name: str, target: Path) -> bool:
        """Make `target` the image, unless it is; False where there is no such image."""


class FolderImages(OfficialImages):
    """Images in a folder. They are linked where the file system can, and else copied; those that lie in the images
    folder already stay as they are.

    Args:
        folder: what the records' names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _read(self, name: str) -> bytes | None:
        file = self._folder / name
        return file.read_bytes() if why_no_file(file) is None else None

    def _put(self, name: str, target: Path) -> bool:
        file = self._folder / name
        if why_no_file(file) is not None or not file.stat().st_size:
            return False
        if target.exists() and (os.path.samefile(file, target) or filecmp.cmp(file, target, shallow=False)):
            return True
        if not _linked(file.resolve(), target):
            with written_aside(target) as aside:
                shutil.copyfile(file, aside)
        return True


class ZipImages(OfficialImages):
    """Images in a zip archive, with or without one folder around all of them.

    Raises:
        DataError: not a zip archive.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        with _archive_errors(path):
            self._archive = zipfile.ZipFile(path)
        self._members = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}
        self._around = ["", *sorted({f"{name.split('/')[0]}/" for name in self._members if "/" in name})]

    def _member(self, name: str) -> zipfile.ZipInfo | None:
        found = (self._members.get(f"{around}{name}") for around in self._around)
        return next((member for member in found if member is not None), None)

    def _read(self, name: str) -> bytes | None:
        info = self._member(name)
        with _archive_errors(self._path):
            return None if info is None else self._archive.read(info)

    def _put(self, name: str, target: Path) -> bool:
        info = self._member(name)
        if info is None or not info.file_size:
            return False
        if target.is_file() and target.stat().st_size == info.file_size and _crc(target) == info.CRC:
            return True
        with (
            _archive_errors(self._path),
            self._archive.open(info) as stream,
            written_aside(target) as aside,
            aside.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, _CHUNK)
        return True


class _FirstOf(OfficialImages):
    """Images in several places; an image is taken from the first that has it."""

    def __init__(self, places: Sequence[OfficialImages]) -> None:
        super().__init__()
        self._places = places

    def _read(self, name: str) -> bytes | None:
        found = (place._read(name) for place in self._places)
        return next((data for data in found if data), None)

    def _put(self, name: str, target: Path) -> bool:
        return any(place._put(name, target) for place in self._places)


def official_images(source: Path, *names: str) -> OfficialImages:
    """The images in the folders and zip archives of these names that are in `source`.

    Where there are several, each image is taken from the first that has it: a folder may be what another set has
    unpacked of the archive so far.

    Raises:
        DataError: none is there, or an archive is damaged.
    """
    paths = [source / name for name in names]
    places = [FolderImages(path) if path.is_dir() else ZipImages(path) for path in paths if path.exists()]
    if not places:
        raise DataError(f"{source}: has neither {' nor '.join(names)}; fetch one of them.")
    return places[0] if len(places) == 1 else _FirstOf(places)


def bytes_name(data: bytes, under: str) -> str | None:
    """The name of an image that has none of its own: made of its bytes, so equal images share one.

    Returns:
        a path relative to the images folder, below the folder `under`; None where Pillow knows no such image format.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or ""
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None
    ending = _ENDINGS.get(kind, kind.lower())
    return f"{under}/{hashlib.sha256(data).hexdigest()[:24]}.{ending}"


def place_bytes(data: bytes, name: str, images: Path) -> None:
    """Write an image to `images / name`, unless the same bytes are there."""
    target = images / inside(name)
    if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return
    with written_aside(target) as aside:
        aside.write_bytes(data)


def inside(name: str) -> str:
    """A relative path with slashes that stays inside its folder, as it is.

    Raises:
        DataError: it does not.
    """
    path = PurePosixPath(name)
    wrong = not name or "\\" in name or "\0" in name or path.is_absolute() or ".." in path.parts or not_unicode(name)
    if wrong:
        raise DataError(
            f"{name!r:.200}: an image's name, expected a relative path that stays inside its folder; was the file "
            "fetched from its official place?"
        )
    return name


def _linked(file: Path, target: Path) -> bool:
    """Make `target` a second name of a file; False where the file system cannot. The file's mode stays as it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        os.link(file, aside)
    except OSError:
        return False
    os.replace(aside, target)
    return True


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


@contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); fetch the archive again.") from error
