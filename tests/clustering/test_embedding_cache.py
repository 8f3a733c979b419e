import multiprocessing

import numpy as np
import pytest

from llava_mocle.clustering.embedding_cache import EmbeddingCache, default_cache_dir


def numbers(texts, dim=4, dtype=np.float32):
    return np.array([[len(text) + 0.1 * i for i in range(dim)] for text in texts], dtype=dtype)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp64", np.float64)])
def test_round_trip(tmp_path, precision, dtype):
    texts = ["a", "bb", "图 🐈", ""]
    EmbeddingCache(tmp_path, "h", precision).write(texts, numbers(texts, dtype=dtype))
    found = EmbeddingCache(tmp_path, "h", precision).read(["bb", "", "unknown", "图 🐈"])
    assert sorted(found) == ["", "bb", "图 🐈"]
    assert found["bb"].dtype == dtype
    assert (found["图 🐈"] == numbers(["图 🐈"], dtype=dtype)[0]).all()


def test_encoders_and_precisions_do_not_mix(tmp_path):
    EmbeddingCache(tmp_path, "h", "fp32").write(["a"], numbers(["a"]))
    assert EmbeddingCache(tmp_path, "other", "fp32").read(["a"]) == {}
    assert EmbeddingCache(tmp_path, "h", "fp64").read(["a"]) == {}


def test_damaged_and_half_written_shards_are_skipped(tmp_path):
    cache = EmbeddingCache(tmp_path, "h", "fp32")
    cache.write(["a"], numbers(["a"]))
    (shard,) = cache.folder.glob("*.safetensors")
    (cache.folder / "0-torn.safetensors").write_bytes(shard.read_bytes()[:-7])
    (cache.folder / ".half.tmp").write_bytes(b"123")
    with pytest.warns(UserWarning, match=r"0-torn\.safetensors: skipped"):
        assert list(cache.read(["a"])) == ["a"]


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = EmbeddingCache(blocked, "h", "fp32")
    with pytest.warns(UserWarning, match="not cached"):
        cache.write(["a"], numbers(["a"]))
    assert cache.read(["a"]) == {}


def _write_many(folder, number):
    cache = EmbeddingCache(folder, "h", "fp32")
    for index in range(20):
        texts = [f"{number} {index}", f"shared {index}"]
        cache.write(texts, numbers(texts))


def test_concurrent_writers(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(tmp_path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    texts = [f"{number} {index}" for number in range(3) for index in range(20)] + [f"shared {i}" for i in range(20)]
    found = EmbeddingCache(tmp_path, "h", "fp32").read(texts)
    assert sorted(found) == sorted(texts)
    for text in texts:
        assert (found[text] == numbers([text])[0]).all()
    assert not list(tmp_path.rglob("*.tmp"))


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "embeddings"
    monkeypatch.delenv("LLAVA_MOCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "llava_mocle" / "embeddings"
