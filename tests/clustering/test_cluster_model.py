import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from llava_mocle.clustering import cluster_model
from llava_mocle.clustering import encoder as encoder_module
from llava_mocle.clustering.cluster_config import ClusterConfig, fingerprint
from llava_mocle.clustering.cluster_model import PROBE_TEXTS, ClusterModel
from llava_mocle.clustering.encoder import FP32_ERROR, SentenceEncoder
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.clustering.nearest import nearest_with_margin
from llava_mocle.errors import AssetError, ClusterModelError, ConfigError, DataError
from tests.clustering.encoders import (
    FakeEncoder,
    make_tiny_encoder,
    question_texts,
    real_encoder_folder,
    record_devices,
)


def fitted(number=60, num_clusters=4, encoder=None, **settings) -> ClusterModel:
    return ClusterModel.fit(
        question_texts(number), num_clusters, encoder=encoder or FakeEncoder(), progress=False, **settings
    )


def model_on(encoder, centroids: np.ndarray) -> ClusterModel:
    """A cluster model with given centroids."""
    centroids = centroids.astype(np.float32)
    config = ClusterConfig(encoder.name, encoder.weight_hash, centroids.shape[1], len(centroids))
    config.fingerprint = fingerprint(config, centroids)
    probe = encoder.encode(PROBE_TEXTS, progress=False, exact=True)
    empty = [[] for _ in centroids]
    return ClusterModel(centroids, np.ones(len(centroids)), config, probe, empty, encoder)


def bordering_centroids(encoder, texts: list[str], offset: float = 0.02) -> np.ndarray:
    """Two centroids for each text, equally far from it up to the rounding to float32."""
    exact = encoder.encode(texts, progress=False, exact=True)
    sideways = np.random.default_rng(0).standard_normal(exact.shape)
    sideways -= (sideways * exact).sum(axis=1, keepdims=True) * exact
    sideways *= offset / np.linalg.norm(sideways, axis=1, keepdims=True)
    return np.stack([exact + sideways, exact - sideways], axis=1).reshape(-1, exact.shape[1])


def in_odd_batches(texts: list[str], seed: int) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    order = [texts[i] for i in generator.permutation(len(texts))]
    batches = []
    while order:
        size = int(generator.integers(1, 40))
        batches.append(order[:size])
        order = order[size:]
    return batches


def test_fit_weighs_repetitions_and_ignores_order():
    texts = question_texts(40)
    repeats = np.random.default_rng(0).integers(1, 9, len(texts))
    rows = [text for text, count in zip(texts, repeats, strict=True) for _ in range(count)]
    model = ClusterModel.fit(rows, 5, encoder=FakeEncoder(), progress=False)
    shuffled = ClusterModel.fit(rows[::-1], 5, encoder=FakeEncoder(), progress=False)
    weighted = ClusterModel.fit(texts, 5, weights=repeats.tolist(), encoder=FakeEncoder(), progress=False)
    for other in (shuffled, weighted):
        assert (model.centroids == other.centroids).all()
        assert model.config.fit["request"] == other.config.fit["request"]
    assert model.counts.sum() == repeats.sum() == model.config.fit["num_instructions"]
    ids, _ = model.assign(rows)
    assert (np.bincount(ids, minlength=5) == model.counts).all()
    assert model.config.fit["request"] != ClusterModel.fit(texts, 5, encoder=FakeEncoder()).config.fit["request"]


def test_each_distinct_text_reaches_the_encoder_once():
    encoder = FakeEncoder()
    texts = question_texts(30)
    ClusterModel.fit(texts * 7, 3, encoder=encoder, progress=False)
    assert sorted(encoder.calls) == sorted([*texts, *PROBE_TEXTS])


def test_assign_gives_the_nearest_centroid():
    encoder = FakeEncoder()
    model = fitted(encoder=encoder)
    texts = ["unseen", *question_texts(20, seed=9), "unseen"]
    ids, distances = model.assign(texts)
    assert ids.dtype == np.int64
    assert distances.dtype == np.float32
    table = np.linalg.norm(encoder.encode(texts)[:, None] - model.centroids, axis=-1)
    assert (ids == table.argmin(axis=1)).all()
    np.testing.assert_allclose(distances, table.min(axis=1), atol=1e-6)
    empty_ids, empty_distances = model.assign([])
    assert empty_ids.shape == empty_distances.shape == (0,)


def test_nearest_examples():
    model = fitted(num_examples=3)
    for cluster in range(4):
        found = model.nearest_examples(cluster, 9)
        assert 0 < len(found) <= 3
        assert [item.distance for item in found] == sorted(item.distance for item in found)
        assert (model.assign([item.text for item in found])[0] == cluster).all()
    with pytest.raises(ClusterModelError, match="expected 0 to 3"):
        model.nearest_examples(4)


def test_ids_do_not_depend_on_the_fast_paths_error():
    """An error of 0.8 of what is allowed, another at every call, turns no id; it would turn many of a plain argmin."""
    texts = question_texts(20000)
    clean = FakeEncoder(dim=3)
    centroids = np.random.default_rng(1).standard_normal((1000, 3))
    noisy = FakeEncoder(dim=3, noise=0.8 * FP32_ERROR)
    model = model_on(noisy, centroids)
    expected = model_on(clean, centroids).assign(texts)[0]
    assert (model.assign(texts)[0] == expected).all()
    assert 0 < len(noisy.exact_calls) < 2000
    plain = nearest_with_margin(noisy.encode(texts), model.centroids)[0]
    assert (plain != expected).any()


def test_a_large_fit_takes_the_rough_path(monkeypatch):
    texts = question_texts(300)
    repeats = np.random.default_rng(0).integers(1, 9, len(texts)).tolist()
    monkeypatch.setattr(cluster_model.kmeans, "SMALL", 100)
    rough = FakeEncoder(roughness=0.02)
    model = ClusterModel.fit(texts, 5, weights=repeats, encoder=rough, progress=False)
    assert sorted(rough.rough_calls) == sorted(texts)
    ids, _ = model.assign(texts)
    exact = FakeEncoder().encode(texts, exact=True)
    assert (ids == nearest_with_margin(exact, model.centroids)[0]).all()
    assert (np.bincount(ids, weights=repeats, minlength=5) == model.counts).all()
    assert model.config.fit["num_instructions"] == sum(repeats)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def check_batches_do_not_matter(encoder: SentenceEncoder, number: int, alone: int) -> None:
    texts = question_texts(number)
    model = model_on(encoder, bordering_centroids(encoder, texts))
    ids, _ = model.assign(texts)
    expected = dict(zip(texts, ids.tolist(), strict=True))
    assert all(expected[text] // 2 == index for index, text in enumerate(texts))
    changed = 0
    groups = in_odd_batches(texts, seed=1) + [[text] for text in texts[:alone]]
    for group in groups:
        assert model.assign(group)[0].tolist() == [expected[text] for text in group]
        plain = nearest_with_margin(encoder.encode(group, progress=False), model.centroids)[0]
        changed += int((plain != [expected[text] for text in group]).sum())
    assert changed > 0, "these texts must lie on borders where batches matter, or this test shows nothing"


def test_texts_on_a_border_keep_their_id_alone_and_in_any_batch(tiny):
    check_batches_do_not_matter(SentenceEncoder(tiny, device="cpu"), 100, alone=30)


@pytest.mark.slow
def test_texts_on_a_border_keep_their_id_with_the_real_encoder():
    check_batches_do_not_matter(SentenceEncoder(real_encoder_folder(), device="cpu"), 40, alone=10)


_OTHER_PROCESS = """
import json, sys
from llava_mocle.clustering import ClusterModel
folder, encoder, seed = sys.argv[1:4]
from tests.clustering.test_cluster_model import in_odd_batches
model = ClusterModel.load(folder, encoder=encoder)
texts = json.load(sys.stdin)
found = {}
for group in in_odd_batches(texts, int(seed)):
    found.update(zip(group, model.assign(group)[0].tolist()))
print(json.dumps([found[text] for text in texts]))
"""


@pytest.mark.slow
def test_thousands_of_texts_keep_their_ids_across_processes(tmp_path):
    folder = real_encoder_folder().resolve()
    encoder = SentenceEncoder(folder, device="cpu")
    texts = question_texts(2000, longest=10)
    cache = tmp_path / "cache"
    borders = bordering_centroids(encoder, texts[:50])
    broad = ClusterModel.fit(texts, 64, encoder=encoder, n_init=1, cache_dir=cache, progress=False).centroids
    model = model_on(encoder, np.concatenate([broad, borders]))
    model.save(tmp_path / "clusters")
    expected = model.assign(texts, cache_dir=cache)[0].tolist()
    assert len(set(expected)) > 100
    for seed, threads in ((1, "1"), (2, "2")):
        command = [sys.executable, "-c", _OTHER_PROCESS, str(tmp_path / "clusters"), str(folder), str(seed)]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            command, input=json.dumps(texts), capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_save_and_load(tmp_path):
    encoder = FakeEncoder()
    model = fitted(encoder=encoder, rule=InstructionRule(turns="all"))
    model.save(tmp_path / "sub" / "clusters")
    loaded = ClusterModel.load(tmp_path / "sub" / "clusters", encoder=encoder)
    assert (loaded.centroids == model.centroids).all()
    assert (loaded.counts == model.counts).all()
    assert loaded.config == model.config
    assert loaded.rule == InstructionRule(turns="all")
    assert (loaded.num_clusters, loaded.dim, loaded.fingerprint) == (4, 8, model.fingerprint)
    assert [loaded.nearest_examples(c, 99) for c in range(4)] == [model.nearest_examples(c, 99) for c in range(4)]
    texts = question_texts(50, seed=3)
    for one, other in zip(loaded.assign(texts), model.assign(texts), strict=True):
        assert (one == other).all()
    names = sorted(path.name for path in (tmp_path / "sub" / "clusters").iterdir())
    assert names == ["centroids.safetensors", "config.json", "examples.jsonl"]
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["clusters"]


def test_loading_looks_for_no_encoder(tmp_path):
    fitted().save(tmp_path / "clusters")
    assert ClusterModel.load(tmp_path / "clusters").centroids.shape == (4, 8)


def test_another_encoder_is_refused(tmp_path, tiny):
    encoder = SentenceEncoder(tiny, device="cpu")
    fitted(encoder=encoder, n_init=1).save(tmp_path / "clusters")
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    with pytest.raises(ClusterModelError) as error:
        ClusterModel.load(tmp_path / "clusters", encoder=other)
    for word in (str(tmp_path / "clusters" / "config.json"), encoder.weight_hash[:16], str(other), "original encoder"):
        assert word in str(error.value)
    # The same place, other weights: noticed when the first text is assigned.
    config = json.loads((tmp_path / "clusters" / "config.json").read_text())
    config["encoder"] = str(other)
    (tmp_path / "clusters" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClusterModelError, match="weight hash"):
        ClusterModel.load(tmp_path / "clusters").assign(["a"])
    assert ClusterModel.load(tmp_path / "clusters", encoder=tiny).assign(["a"])[0].shape == (1,)


def test_the_default_encoder_stands_in_for_a_path_of_another_machine(tmp_path, tiny, monkeypatch):
    moved = shutil.copytree(tiny, tmp_path / "moved")
    model = fitted(encoder=SentenceEncoder(moved, device="cpu"), n_init=1)
    model.save(tmp_path / "clusters")
    texts = question_texts(10, seed=5)
    expected = model.assign(texts)[0]
    shutil.rmtree(moved)
    monkeypatch.setenv("LLAVA_MOCLE_ASSETS", str(tmp_path / "assets"))
    shutil.copytree(tiny, tmp_path / "assets" / "all-MiniLM-L6-v2")
    assert (ClusterModel.load(tmp_path / "clusters").assign(texts)[0] == expected).all()
    shutil.rmtree(tmp_path / "assets")
    make_tiny_encoder(tmp_path / "assets" / "all-MiniLM-L6-v2", seed=1)
    with pytest.raises(AssetError, match=str(moved)):
        ClusterModel.load(tmp_path / "clusters").assign(texts)


def test_same_weights_other_tokenizer_are_refused(tmp_path, tiny):
    fitted(encoder=SentenceEncoder(tiny, device="cpu"), n_init=1).save(tmp_path / "clusters")
    changed = shutil.copytree(tiny, tmp_path / "changed")
    pooling = next(changed.glob("*_Pooling")) / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"max"'))
    with pytest.raises(ClusterModelError, match="right weights, but its embedding of a probe text is off"):
        ClusterModel.load(tmp_path / "clusters", encoder=changed).assign(["a"])


def test_bad_requests():
    with pytest.raises(ConfigError, match=r"num_clusters is 7.*only 5 distinct"):
        ClusterModel.fit(question_texts(5) * 4, 7, encoder=FakeEncoder())
    with pytest.raises(DataError, match="no rows"):
        ClusterModel.fit([], 1, encoder=FakeEncoder())
    for broken in (["a", "b \ud83d"], ["a", "b"]):
        with pytest.raises(DataError, match=r"'b \\ud83d' holds half a surrogate pair"):
            ClusterModel.fit(broken, 1, encoder=FakeEncoder(), progress=False).assign(["b \ud83d"])
    with pytest.raises(DataError, match="weighs 0"):
        ClusterModel.fit(["a", "b"], 1, weights=[1, 0], encoder=FakeEncoder())


@pytest.mark.parametrize("given", [True, False])
def test_the_device_reaches_the_encoder(tiny, tmp_path, monkeypatch, given):
    """Whether the encoder's folder is given or read from config.json."""
    fitted(encoder=SentenceEncoder(tiny, device="cpu"), n_init=1).save(tmp_path / "clusters")
    asked = record_devices(monkeypatch)
    ClusterModel.load(tmp_path / "clusters", tiny if given else None, "cuda:2").assign(["a", "b"])
    assert asked[0] == "cuda:2"


def test_the_device_reaches_an_encoder_that_stands_in(tiny, tmp_path, monkeypatch):
    """The recorded folder is gone; the default encoder has the same weights."""
    moved = shutil.copytree(tiny, tmp_path / "moved")
    fitted(encoder=SentenceEncoder(moved, device="cpu"), n_init=1).save(tmp_path / "clusters")
    shutil.rmtree(moved)
    monkeypatch.setattr(encoder_module, "DEFAULT_ENCODER", str(tiny))
    asked = record_devices(monkeypatch)
    ClusterModel.load(tmp_path / "clusters", device="cpu").assign(["a"])
    assert set(asked) == {"cpu"}


def test_centroids_of_another_program_keep_their_numbers(tmp_path):
    encoder = FakeEncoder()
    texts = ["what is it", "where is it", "how long is AB"]
    centroids = encoder.encode(texts, exact=True)[[2, 0, 1]]
    model = ClusterModel.from_centroids(centroids, encoder=encoder)
    assert model.assign(texts)[0].tolist() == [1, 2, 0]
    model.save(tmp_path / "clusters")
    again = ClusterModel.load(tmp_path / "clusters", encoder)
    assert np.array_equal(again.centroids, centroids.astype(np.float32))
    assert again.assign(texts)[0].tolist() == [1, 2, 0]
    assert again.counts.tolist() == [0, 0, 0]
    assert again.nearest_examples(0) == []
    assert again.rule == InstructionRule()
    with pytest.raises(ClusterModelError, match="have 5 numbers, but embeddings of 'fake-fake' have 8"):
        ClusterModel.from_centroids(centroids[:, :5], encoder=encoder)


def test_the_two_nearest_clusters():
    model = fitted(encoder=FakeEncoder(noise=1e-6))
    texts = question_texts(70)[50:]
    ids, distances = model.assign_two(texts)
    nearest, lengths = model.assign(texts)
    assert ids[:, 0].tolist() == nearest.tolist()
    np.testing.assert_allclose(distances[:, 0], lengths, atol=5e-6)  # the noise of two calls
    exact = FakeEncoder().encode(texts, exact=True)
    table = np.linalg.norm(exact[:, None] - model.centroids[None].astype(np.float64), axis=2)
    assert ids[:, 1].tolist() == np.argsort(table, axis=1)[:, 1].tolist()
    np.testing.assert_allclose(distances[:, 1], np.sort(table, axis=1)[:, 1], atol=5e-6)
