import gzip
import struct

import numpy as np
import pytest

from llava_mocle.errors import DataError
from playground.domains.nifti import read_nifti


def nifti_bytes(voxels, code, order="<", slope=0.0, intercept=0.0, sform=None, zooms=(1.0, 1.0, 1.0)):
    """A single-file NIfTI-1 file written field by field, as the standard lays it out."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim))
    struct.pack_into(f"{order}2h", header, 70, code, voxels.dtype.itemsize * 8)
    struct.pack_into(f"{order}4f", header, 76, 1.0, *zooms)
    struct.pack_into(f"{order}3f", header, 108, 352.0, slope, intercept)
    if sform is not None:
        struct.pack_into(f"{order}h", header, 254, 2)
        struct.pack_into(f"{order}12f", header, 280, *sform)
    header[344:348] = b"n+1\x00"
    return bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "code"), [("u1", 2), ("i2", 4), ("f4", 16), ("u2", 512)])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_keep_values_and_axes(tmp_path, order, dtype, code, packed):
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    content = nifti_bytes(voxels, code, order)
    path = tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(content) if packed else content)
    volume = read_nifti(path)
    assert volume.voxels.shape == (2, 3, 4)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels[1, 0, 2] == 1 * 12 + 2


def test_slope_intercept_and_affine(tmp_path):
    path = tmp_path / "v.nii"
    sform = [2, 0, 0, -10, 0, 3, 0, -20, 0, 0, 4, -30]
    path.write_bytes(nifti_bytes(np.arange(8, dtype="i2").reshape(2, 2, 2), 4, slope=0.5, intercept=1.0, sform=sform))
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.voxels.ravel(), np.arange(8) * 0.5 + 1.0)
    np.testing.assert_allclose(volume.affine @ [1, 1, 1, 1], [-8, -17, -26, 1])


def test_affine_without_sform_has_the_voxel_sizes(tmp_path):
    path = tmp_path / "v.nii"
    path.write_bytes(nifti_bytes(np.zeros((1, 1, 1), "u1"), 2, zooms=(1.5, 2.0, 2.5)))
    np.testing.assert_allclose(np.diag(read_nifti(path).affine), [1.5, 2.0, 2.5, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-3], "truncated"),
        (lambda b: b[:100], "not a single-file NIfTI"),
        (lambda b: b[:344] + b"ni1\x00" + b[348:], "not a single-file NIfTI"),
        (lambda b: b[:70] + struct.pack("<h", 1792) + b[72:], "type code 1792"),
        (lambda b: b[:40] + struct.pack("<h", 9) + b[42:], "impossible dimensions"),
        (lambda b: gzip.compress(b)[:-9], "cannot be read"),
    ],
)
def test_bad_files(tmp_path, change, message):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(change(nifti_bytes(np.zeros((4, 4, 4), "i2"), 4)))
    with pytest.raises(DataError, match=message) as error:
        read_nifti(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_nifti(tmp_path / "none.nii.gz")
