"""Images that a table holds as base64 text, unpacked to files beside it."""

import base64
import binascii
import hashlib
from pathlib import Path

from llava_mocle.data.image_limits import ImageUnreadable
from llava_mocle.data.images import check_header
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.first_writable import first_writable
from llava_mocle.io.cache import cache_root
from llava_mocle.io.files import written_aside


def unpack_image(encoded: str, path: Path, place: str) -> Path:
    """Write the image to `path`, unless it is there already, and return where it is. Its bytes are kept.

    Where nothing can be written beside the table, the image goes below `$LLAVA_MOCLE_CACHE`, named by its content.
    Several processes may unpack the same table at once: each writes aside and renames.

    Raises:
        DataError: not the base64 text of an image, or there is no folder to write to.
    """
    content = _decoded(encoded, place)
    cached = cache_root() / "images" / f"{hashlib.sha256(content).hexdigest()[:32]}{path.suffix}"

    def write(target: Path) -> None:
        if target.is_file() and target.read_bytes() == content:
            return
        with written_aside(target) as aside:
            aside.write_bytes(content)

    return first_writable(write, path, cached)


def expected_image(encoded: str, path: Path, place: str) -> Path:
    """Check the text as `unpack_image` does, without writing anything; returns `path`."""
    _decoded(encoded, place)
    return path


def _decoded(encoded: str, place: str) -> bytes:
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{place}: field 'image' is not base64 ({error}); fetch the file again.") from error
    try:
        check_header(content, "field 'image'")
    except ImageUnreadable as error:
        raise DataError(f"{place}: {error}.") from error
    return content
