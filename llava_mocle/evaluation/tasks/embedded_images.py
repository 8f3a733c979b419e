"""Images that a table holds as base64 text, unpacked to files beside it."""

import base64
import binascii
from pathlib import Path

from llava_mocle.errors import DataError
from llava_mocle.files import written_aside


def unpack_image(encoded: str, path: Path, place: str) -> Path:
    """Write the image to `path`, unless it is there with the same size, and return `path`; the bytes stay as they are.

    Several processes may unpack the same table at once: each writes aside and renames.

    Raises:
        DataError: not base64.
    """
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{place}: field 'image' is not base64 ({error}); fetch the file again.") from error
    if path.is_file() and path.stat().st_size == len(content):
        return path
    with written_aside(path) as aside:
        aside.write_bytes(content)
    return path
