import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file

from llava_mocle.adapter.centroids import load_centroids
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.router import (
    ClusterRouter,
    DatasetRouter,
    build_router,
    check_ids,
    initial_embedding,
)
from llava_mocle.errors import ClusterModelError, ConfigError, RoutingError

from .helpers import config, tiny_llama

CENTROIDS = torch.nn.functional.normalize(torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def cluster_model(tmp_path):
    save_file({"centroids": CENTROIDS, "counts": torch.ones(6)}, tmp_path / "centroids.safetensors")
    return tmp_path


@pytest.mark.parametrize("as_file", [False, True])
def test_embedding_starts_at_the_centroids(cluster_model, as_file):
    path = cluster_model / "centroids.safetensors" if as_file else cluster_model
    settings = config(centroids=path, num_clusters=None, cluster_dim=None)
    model = get_peft_model(tiny_llama(), settings)
    assert (settings.num_clusters, settings.cluster_dim) == (6, 10)
    assert torch.equal(model.mocle_router["default"].cluster_embedding, CENTROIDS)
    assert model.clean_gates().shape == (6, 4, 4)


def test_released_has_an_embedding_and_a_bias_at_every_site(cluster_model):
    settings = config(centroids=cluster_model, num_clusters=None, cluster_dim=None, gate_mode="released")
    router = build_router(settings, 3, initial_embedding(settings))
    assert router.gate_bias.shape == (3, 4)
    assert router.cluster_embedding.shape == (3, 6, 10)
    assert all(torch.equal(embedding, CENTROIDS) for embedding in router.cluster_embedding)


@pytest.mark.parametrize(("field", "value", "found"), [("num_clusters", 5, 6), ("cluster_dim", 11, 10)])
def test_centroids_of_another_shape(cluster_model, field, value, found):
    changes = {"num_clusters": None, "cluster_dim": None, field: value}
    model = tiny_llama()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ConfigError, match=rf"{field}={value}.*have {found}"):
        get_peft_model(model, config(centroids=cluster_model, **changes))
    assert [name for name, _ in model.named_modules()] == names


def test_centroids_are_read_while_the_model_is_laid_out_on_meta(cluster_model):
    settings = config(centroids=cluster_model, num_clusters=None, cluster_dim=None)
    with torch.device("meta"):
        model = get_peft_model(tiny_llama(), settings)
    assert settings.num_clusters == 6
    assert all(parameter.is_meta for parameter in model.parameters())


def test_unreadable_centroids(tmp_path):
    with pytest.raises(ClusterModelError, match="there is no file"):
        load_centroids(tmp_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x05not a header")
    with pytest.raises(ClusterModelError, match="not a readable"):
        load_centroids(broken)
    save_file({"counts": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ClusterModelError, match="no tensor 'centroids'"):
        load_centroids(tmp_path / "other.safetensors")
    save_file({"centroids": torch.tensor([[1.0, float("nan")]])}, tmp_path / "nan.safetensors")
    with pytest.raises(ClusterModelError, match="finite"):
        load_centroids(tmp_path / "nan.safetensors")


def test_kept_gates_are_the_strongest_and_not_renormalised():
    settings = config(router="dataset", num_clusters=3, cluster_dim=None, top_k=2, universal_expert=False)
    gates = build_router(settings, 2, initial_embedding(settings))(torch.arange(3), noisy=False)
    probabilities = gate_probabilities(gates.clean_logits, settings.temperature)
    strongest = probabilities.argsort(dim=-1, descending=True)[..., :2]
    assert torch.equal(gates.expert, strongest)
    assert torch.equal(gates.gate, probabilities.gather(-1, strongest))


def test_dataset_router_starts_at_random_unit_vectors_of_the_seed():
    settings = config(router="dataset", num_clusters=3, cluster_dim=None)
    torch.manual_seed(4)
    first = build_router(settings, 2, initial_embedding(settings))
    torch.manual_seed(4)
    second = build_router(settings, 2, initial_embedding(settings))
    assert isinstance(first, DatasetRouter)
    assert first.cluster_embedding.shape == (3, 384)
    assert torch.equal(first.cluster_embedding, second.cluster_embedding)
    assert (first.cluster_embedding.norm(dim=-1) - 1).abs().max() < 1e-6


def test_gates_start_like_a_linear_layer():
    router = ClusterRouter(config(cluster_dim=400), 30, torch.zeros(5, 400))
    bound = 400**-0.5
    assert 0.99 * bound < router.gate_weight.abs().max() <= bound
    assert abs(router.gate_weight.std().item() - bound / 3**0.5) < 0.01 * bound


def test_set_cluster_embedding():
    model = get_peft_model(tiny_llama(), config())
    new = torch.randn(5, 8)
    model.set_cluster_embedding(new)
    assert torch.equal(model.mocle_router["default"].cluster_embedding, new)
    with pytest.raises(ConfigError, match=r"\(5, 9\).*\(5, 8\)"):
        model.set_cluster_embedding(torch.randn(5, 9))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (None, "cluster_ids is missing"),
        (torch.tensor([0, 1, 5]), r"holds \[5\].*\[0, 5\)"),
        (torch.tensor([0, -1, 2]), r"holds \[-1\]"),
        (torch.tensor([0, 1]), "2 ids but the batch has 3"),
        (torch.tensor([[0], [1], [2]]), r"shape \(3, 1\)"),
        (torch.tensor(1), r"shape \(\)"),
        (torch.tensor([0.0, 1.0, 2.0]), "torch.float32"),
        (torch.tensor([True, False, True]), "torch.bool"),
        ([0, 1.5, 2], "found list"),
        ([True, False, True], "found list"),
        ("012", "found str"),
    ],
)
def test_bad_ids_say_what_was_found(ids, words):
    with pytest.raises(RoutingError, match=words) as error:
        check_ids("cluster_ids", ids, 5, 3)
    assert "cluster_ids" in str(error.value)


@pytest.mark.parametrize("ids", [torch.tensor([0, 4, 2], dtype=torch.int32), [0, 4, 2], (0, 4, 2)])
def test_integers_of_any_kind_are_taken(ids):
    assert check_ids("cluster_ids", ids, 5, 3).tolist() == [0, 4, 2]
