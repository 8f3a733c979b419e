"""Reading the voxels of a NIfTI-1 file (`.nii`, `.nii.gz`): header facts and array, nothing more."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_mocle.errors import DataError

_HEADER_BYTES = 348
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True)
class Volume:
    """A NIfTI volume.

    Attributes:
        voxels: array (X, Y, Z) or with more axes; scaled by the header's slope and intercept when it sets them.
        affine: (4, 4) voxel index -> millimetres from the header's s-form, or the voxel sizes alone without one.
    """

    voxels: np.ndarray
    affine: np.ndarray


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Fetch it again.") from error


def read_nifti(path: str | Path) -> Volume:
    """Read a single-file NIfTI-1 volume.

    Raises:
        DataError: not a single-file NIfTI-1 file, an unknown voxel type, or truncated.
    """
    path = Path(path)
    data = _contents(path)
    if len(data) < _HEADER_BYTES or data[344:348] != b"n+1\x00":
        raise DataError(f"{path}: is not a single-file NIfTI-1 volume (magic {data[344:348]!r}, expected b'n+1\\x00').")
    # The first field holds the header's own size, which tells the byte order.
    order = "<" if struct.unpack("<i", data[:4])[0] == _HEADER_BYTES else ">"
    rank, *lengths = struct.unpack(f"{order}8h", data[40:56])
    code = struct.unpack(f"{order}h", data[70:72])[0]
    if code not in _DTYPES:
        raise DataError(f"{path}: voxel type code {code} is not supported (known: {sorted(_DTYPES)}).")
    if not 1 <= rank <= 7 or any(n < 1 for n in lengths[:rank]):
        raise DataError(f"{path}: has impossible dimensions {(rank, *lengths)}.")
    shape = tuple(lengths[:rank])
    offset = int(struct.unpack(f"{order}f", data[108:112])[0])
    slope, intercept = struct.unpack(f"{order}2f", data[112:120])
    dtype = np.dtype(order + _DTYPES[code])
    count = int(np.prod(shape))
    if len(data) < offset + count * dtype.itemsize:
        raise DataError(f"{path}: is truncated: {len(data)} bytes, expected {offset + count * dtype.itemsize}.")
    voxels = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F")
    if slope not in (0.0, 1.0) or (slope == 1.0 and intercept != 0.0):
        voxels = voxels * slope + intercept
    return Volume(voxels, _affine(data, order))


def _affine(data: bytes, order: str) -> np.ndarray:
    affine = np.eye(4)
    sform_code = struct.unpack(f"{order}h", data[254:256])[0]
    if sform_code > 0:
        affine[:3] = np.array(struct.unpack(f"{order}12f", data[280:328])).reshape(3, 4)
    else:
        affine[:3, :3] = np.diag(struct.unpack(f"{order}3f", data[80:92]))
    return affine
