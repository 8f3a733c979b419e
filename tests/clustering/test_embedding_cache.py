import multiprocessing

import numpy as np
import pytest

from llava_mocle.clustering import embedding_cache
from llava_mocle.clustering.embedding_cache import EmbeddingCache, default_cache_dir, new_table


def numbers(texts, dim=4, dtype=np.float32):
    return np.array([[len(text) + 0.1 * i for i in range(dim)] for text in texts], dtype=dtype)


def read(cache: EmbeddingCache, texts: list[str], dim: int = 4, dtype=np.float32) -> dict[str, np.ndarray]:
    """What the cache holds of these texts; their rows in the result are in another order than they are."""
    result = np.full((len(texts) + 3, dim), -1, dtype=dtype)
    rows = np.random.default_rng(0).permutation(len(result))[: len(texts)]
    missing = set(cache.read(texts, rows, result).tolist())
    assert (np.delete(result, rows, axis=0) == -1).all()
    return {
        text: result[row] for index, (text, row) in enumerate(zip(texts, rows, strict=True)) if index not in missing
    }


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", np.float32), ("fp32", np.float32), ("fp64", np.float64)])
def test_round_trip(tmp_path, precision, dtype):
    texts = ["a", "bb", "图 🐈", ""]
    EmbeddingCache(tmp_path, "h", precision).write(texts, numbers(texts, dtype=dtype))
    cache = EmbeddingCache(tmp_path, "h", precision)
    assert cache.dim() == 4
    found = read(cache, ["bb", "", "unknown", "图 🐈"], dtype=dtype)
    assert sorted(found) == ["", "bb", "图 🐈"]
    assert found["bb"].dtype == dtype
    assert (found["图 🐈"] == numbers(["图 🐈"], dtype=dtype)[0]).all()


def test_encoders_and_precisions_do_not_mix(tmp_path):
    EmbeddingCache(tmp_path, "h", "fp32").write(["a"], numbers(["a"]))
    for other in (EmbeddingCache(tmp_path, "other", "fp32"), EmbeddingCache(tmp_path, "h", "fp64")):
        assert read(other, ["a"]) == {}
        assert other.dim() is None


def test_damaged_and_half_written_shards_are_skipped(tmp_path):
    cache = EmbeddingCache(tmp_path, "h", "fp32")
    cache.write(["a"], numbers(["a"]))
    (shard,) = cache.folder.glob("*.safetensors")
    (cache.folder / "0-torn.safetensors").write_bytes(shard.read_bytes()[:-7])
    (cache.folder / ".half.tmp").write_bytes(b"123")
    with pytest.warns(UserWarning, match=r"0-torn\.safetensors: skipped"):
        assert list(read(cache, ["a"])) == ["a"]
    assert cache.dim() == 4


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = EmbeddingCache(blocked, "h", "fp32")
    with pytest.warns(UserWarning, match="not cached"):
        cache.write(["a"], numbers(["a"]))
    assert read(cache, ["a"]) == {}


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
    found = read(EmbeddingCache(tmp_path, "h", "fp32"), texts)
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


def test_embeddings_of_another_length_are_not_taken(tmp_path):
    cache = EmbeddingCache(tmp_path, "h", "fp32")
    cache.write(["a", "b"], numbers(["a", "b"]))
    with pytest.warns(UserWarning, match="skipped"):
        assert read(cache, ["a"], dim=5) == {}


@pytest.mark.parametrize("where", ["folder", "blocked", None])
def test_a_large_table_is_a_file_that_goes_with_it(tmp_path, monkeypatch, where):
    monkeypatch.setattr(embedding_cache, "_IN_MEMORY", 100)
    assert not isinstance(new_table((5, 5), np.float32), np.memmap)
    (tmp_path / "blocked").write_text("a file, where a folder is wanted")
    table = new_table((50, 5), np.float64, None if where is None else tmp_path / where)
    assert isinstance(table, np.memmap)
    assert table.shape == (50, 5)
    table[:] = 3.0
    assert table.sum() == 750
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["blocked"]
