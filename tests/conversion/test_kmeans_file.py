"""Every form of a joblib k-means gives the exact centroids; whatever would run code is refused and runs nothing."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans

from llava_mocle.conversion import inert_pickle, kmeans_file
from llava_mocle.conversion.kmeans_file import read_centroids
from llava_mocle.errors import ClusterModelError

COMPRESSIONS = [0, 3, *((method, 3) for method in ("zlib", "gzip", "bz2", "xz", "lzma"))]


@pytest.fixture(scope="module")
def kmeans():
    points = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)
    return KMeans(5, n_init=2, random_state=0).fit(points)


def read(tmp_path, content):
    file = tmp_path / "kmeans.pkl"
    file.write_bytes(content)
    return read_centroids(file)


def same(found, expected):
    return found.dtype == np.float32 and np.array_equal(found, np.asarray(expected, dtype=np.float32))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_every_compression_and_protocol(tmp_path, kmeans, compress, protocol):
    file = tmp_path / "kmeans.pkl"
    joblib.dump(kmeans, file, compress=compress, protocol=protocol)
    assert same(read_centroids(file), kmeans.cluster_centers_)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_forms_of_other_libraries_and_settings(tmp_path, kmeans, protocol):
    points = np.random.default_rng(1).standard_normal((40, 6))
    start = np.asfortranarray(points[:3])
    doubles = KMeans(3, init=start, n_init=1).fit(points)
    state = np.random.RandomState(0)
    for model in (doubles, MiniBatchKMeans(3, n_init=1, random_state=state).fit(points)):
        file = tmp_path / "kmeans.pkl"
        joblib.dump(model, file, protocol=protocol)
        assert same(read_centroids(file), model.cluster_centers_)
        assert same(read(tmp_path, pickle.dumps(model, protocol)), model.cluster_centers_)
    fortran = KMeans(3, init=start, n_init=1).fit(points)
    fortran.cluster_centers_ = np.asfortranarray(fortran.cluster_centers_)
    swapped = KMeans(3, init=start, n_init=1).fit(points)
    swapped.cluster_centers_ = swapped.cluster_centers_.astype(">f8")
    for model in (fortran, swapped):
        joblib.dump(model, tmp_path / "kmeans.pkl", protocol=protocol)
        assert same(read_centroids(tmp_path / "kmeans.pkl"), model.cluster_centers_)


class WithoutPlace(io.BytesIO):
    """joblib writes no padding to what cannot say its place; joblib 1.1 and older never do."""

    def tell(self):
        raise io.UnsupportedOperation


def old_names(content, module=b"sklearn.cluster._kmeans", old=b"sklearn.cluster.k_means_"):
    """The module's name of scikit-learn before 0.22, in a protocol whose texts end with a line."""
    assert content.count(b"c" + module + b"\n") == 1
    return content.replace(b"c" + module + b"\n", b"c" + old + b"\n")


def test_files_of_older_versions(tmp_path, kmeans):
    """Without padding (joblib 1.1), and with the k-means' old module (scikit-learn 0.21)."""
    buffer = WithoutPlace()
    joblib.dump(kmeans, buffer, protocol=2)
    content = buffer.getvalue()
    assert same(read(tmp_path, content), kmeans.cluster_centers_)
    assert same(read(tmp_path, old_names(content)), kmeans.cluster_centers_)


# ------ what is refused


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call

    def __call__(self):
        """A pickler asks for it where the result of a call is called again."""


def hostile(sentinel, kmeans):
    """Pickles that would make the file `sentinel`, or do other harm, in a reader that runs them."""
    import os

    shell = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    system = Calls(os.system, shell)
    inside = KMeans(2)
    inside.cluster_centers_ = system
    hidden = KMeans(2)
    hidden.__dict__.update(kmeans.__dict__ | {"labels_": [{"deep": (Calls(eval, code),)}]})
    objects = KMeans(2)
    objects.cluster_centers_ = np.array([[system]], dtype=object)
    as_state = KMeans(2)
    as_state.__dict__.update(kmeans.__dict__ | {"random_state": Calls(getattr, Calls(getattr, "", "__class__"), "mro")})
    return {
        "os.system": system,
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "in an attribute": inside,
        "deep in an attribute": hidden,
        "an array of objects": objects,
        "a chain of getattr": as_state,
        "nested": Calls(Calls(getattr, Calls(__import__, "os"), "system"), shell),
        "a dictionary": {"cluster_centers_": [1]},
        "a list": [kmeans],
        "another estimator": __import__("sklearn.decomposition").decomposition.PCA(),
    }


NAMES = [
    "os.system", "eval", "exec", "getattr", "in an attribute", "deep in an attribute", "an array of objects",
    "a chain of getattr", "nested", "a dictionary", "a list", "another estimator",
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_code_is_refused_and_does_not_run(tmp_path, kmeans, name, protocol):
    sentinel, file = tmp_path / "it_ran", tmp_path / "kmeans.pkl"
    for write in (joblib.dump, lambda value, path, protocol: path.write_bytes(pickle.dumps(value, protocol))):
        write(hostile(sentinel, kmeans)[name], file, protocol=protocol)
        with pytest.raises(ClusterModelError, match=r"kmeans\.pkl"):
            read_centroids(file)
        assert not sentinel.exists()


def test_the_hostile_files_are_hostile(tmp_path, kmeans):
    """joblib runs what they hold, so that the tests above can fail."""
    for name in ("os.system", "in an attribute", "deep in an attribute", "an array of objects", "nested"):
        sentinel, file = tmp_path / name.replace(" ", "_"), tmp_path / "kmeans.pkl"
        joblib.dump(hostile(sentinel, kmeans)[name], file)
        joblib.load(file)
        assert sentinel.exists(), name


def name_of(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


KMEANS = name_of("sklearn.cluster._kmeans", "KMeans") + b")\x81"
HAND_MADE = {
    "a persistent id": b"\x80\x02P7\n.",
    "a binary persistent id": b"\x80\x02K\x07Q.",
    "an extension": b"\x80\x02\x82\x01.",
    "an old instance": b"(ios\nsystem\n.",
    "an object opcode": b"\x80\x02(" + name_of("os", "system") + text("true") + b"o.",
    "arguments to a class": b"\x80\x02" + name_of("sklearn.cluster._kmeans", "KMeans") + text("x") + b"\x85\x81.",
    "keyword arguments": b"\x80\x04" + name_of("sklearn.cluster._kmeans", "KMeans") + b")}\x92.",
    "a call of a class": b"\x80\x02" + name_of("sklearn.cluster._kmeans", "KMeans") + b")R.",
    "a call of a call's result": b"\x80\x02" + name_of("numpy", "dtype") + text("f4") + b"\x85R)R.",
    "a state for a class": b"\x80\x02" + name_of("sklearn.cluster._kmeans", "KMeans") + b"}b.",
    "a state of slots": b"\x80\x02" + KMEANS + b"}}\x86b.",
    "a setstate": b"\x80\x02" + KMEANS + b"}" + text("__setstate__") + name_of("os", "system") + b"sb.",
    "a dotted name": b"\x80\x04" + text("sklearn.cluster._kmeans") + text("KMeans.__init__") + b"\x93.",
    "a name out of pieces": b"\x80\x04" + text("builtins") + text("eval") + b"\x93" + text("1") + b"\x85R.",
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "codecs to elsewhere": b"\x80\x02" + name_of("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.",
    "a dtype of objects": b"\x80\x02" + name_of("numpy", "dtype") + text("O8") + b"\x85R.",
    "a dtype of records": b"\x80\x02" + name_of("numpy", "dtype") + text("V8") + b"\x85R.",
    "an unhashable key": b"\x80\x02}]Ns.",
    "a stack that is empty": b"\x80\x02R.",
    "a memo that is empty": b"\x80\x02h\x09.",
    "no end": b"\x80\x02N",
    "no pickle": b"hello",
    "nothing": b"",
    "a text longer than the file": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "many steps": b"\x80\x02" + b"}0" * 10 + b"}" * 200_000 + b".",
    "joblib 0.9": b"ZF0x1",
    "lz4": b"\x04\x22\x4d\x18....",
    "half a gzip": gzip.compress(b"\x80\x02N." * 1000)[:20],
    "half a bz2": bz2.compress(b"\x80\x02N." * 1000)[:20],
    "half an xz": lzma.compress(b"\x80\x02N." * 1000)[:40],
    "half a zlib": zlib.compress(b"\x80\x02N." * 1000)[:10],
    "an unfitted k-means": b"\x80\x02" + KMEANS + b"}b.",
    "centroids that are a text": b"\x80\x02" + KMEANS + b"}" + text("cluster_centers_") + text("x") + b"sb.",
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_streams_are_refused(tmp_path, name):
    with pytest.raises(ClusterModelError, match=r"kmeans\.pkl.*joblib"):
        read(tmp_path, HAND_MADE[name])


def wrapped(shape, content, code="f4"):
    """A k-means whose centroids are one joblib array of this shape, with these bytes after it."""
    dtype = name_of("numpy", "dtype") + text(code) + b"\x85R"
    sizes = b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape)
    entries = text("subclass") + name_of("numpy", "ndarray") + text("shape") + sizes + b"\x86" + text("order")
    entries += text("C") + text("dtype") + dtype
    wrapper = name_of("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}(" + entries + b"ub"
    return b"\x80\x02" + KMEANS + b"}" + text("cluster_centers_") + wrapper + content + b"sb."


def test_a_hand_made_stream_is_read(tmp_path):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    assert same(read(tmp_path, wrapped((2, 3), values.tobytes())), values)


@pytest.mark.parametrize("shape", [(2**40, 384), (2, 4), (2**62, 2**62), (-1, 3), (0, 3)], ids=str)
def test_absurd_shapes_are_refused(tmp_path, shape):
    with pytest.raises(ClusterModelError, match=r"kmeans\.pkl"):
        read(tmp_path, wrapped(shape, bytes(24)))


def test_centroids_that_are_no_matrix_of_finite_numbers_are_refused(tmp_path):
    for content, code in ((np.full(6, np.nan, "<f4").tobytes(), "f4"), (bytes(24), "i4")):
        with pytest.raises(ClusterModelError, match="finite numbers"):
            read(tmp_path, wrapped((2, 3), content, code))


def test_bytes_that_are_used_many_times_are_refused(tmp_path):
    """A file of 1 MiB that stands for a gigabyte."""
    dtype = name_of("numpy", "dtype") + text("u1") + b"\x85Rq\x02"
    shape = b"J" + struct.pack("<i", 2**20) + b"\x85"
    once = name_of("numpy.core.numeric", "_frombuffer") + b"(h\x01h\x02" + shape + text("C") + b"tR"
    content = b"\x80\x04B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x01" + dtype + once * 1000 + b"."
    with pytest.raises(ClusterModelError, match="many times over"):
        read(tmp_path, content)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(kmeans_file, "_MOST_BYTES", 2**20)
    with pytest.raises(ClusterModelError, match="more than 1 MiB"):
        read(tmp_path, pack(bytes(2**20 + 1)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ClusterModelError, match=r"gone\.pkl: no such file"):
        read_centroids(tmp_path / "gone.pkl")
    with pytest.raises(ClusterModelError, match="it is a folder"):
        read_centroids(tmp_path)


def test_the_reader_cannot_import_or_call():
    """The names of a file are compared with a list, and looked up nowhere."""
    source = Path(inert_pickle.__file__).read_text(encoding="utf-8")
    assert not any(word in source for word in ("import pickle\n", "importlib", "__import__", "getattr("))
