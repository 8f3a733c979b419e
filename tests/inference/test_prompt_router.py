"""Which cluster or dataset a request takes, and how often a text is embedded."""

import pytest

from llava_mocle.clustering import ClusterModel
from llava_mocle.errors import RoutingError
from llava_mocle.inference import Request, prompt_router
from llava_mocle.inference.prompt_router import PromptRouter, dataset_id, dataset_names
from tests.inference.tiny import QUESTIONS


@pytest.fixture(scope="module")
def cluster_model(checkpoint_dir) -> ClusterModel:
    return ClusterModel.load(checkpoint_dir / "clusters")


@pytest.fixture
def router(cluster_model) -> PromptRouter:
    return PromptRouter(cluster_model, "a/model")


@pytest.fixture
def embedded(cluster_model, monkeypatch) -> list[str]:
    """The texts that were embedded."""
    assign, texts = cluster_model.assign, []
    monkeypatch.setattr(cluster_model, "assign", lambda new: texts.extend(new) or assign(new))
    return texts


def test_a_request_takes_the_cluster_of_its_text(router, cluster_model):
    ids, distances = cluster_model.assign(QUESTIONS)
    clusters, found = router.route([Request(question) for question in QUESTIONS])
    assert clusters == ids.tolist()
    assert found == pytest.approx(distances.tolist(), abs=1e-5)
    assert router.route([Request("anything", route_text=QUESTIONS[3])])[0] == [ids[3]]


def test_image_marks_do_not_route(router):
    assert router.text_of(Request(f"<image>\n{QUESTIONS[0]} ")) == QUESTIONS[0]


def test_a_text_is_embedded_once(router, embedded):
    first = router.route([Request(QUESTIONS[0]), Request(QUESTIONS[1]), Request(QUESTIONS[0])])
    assert sorted(embedded) == sorted(QUESTIONS[:2])
    again = router.route([Request(QUESTIONS[1])])
    assert len(embedded) == 2
    assert (again[0][0], again[1][0]) == (first[0][1], first[1][1])


def test_a_given_cluster_is_not_looked_up(router, embedded):
    assert router.route([Request(QUESTIONS[0], cluster_id=2)]) == ([2], [None])
    assert embedded == []


def test_routes_are_forgotten_when_there_are_too_many(router, embedded, monkeypatch):
    monkeypatch.setattr(prompt_router, "_MOST_ROUTES", 1)
    expected = router.route([Request(question) for question in QUESTIONS[:2]])
    router.route([Request(QUESTIONS[2])])
    assert router.route([Request(question) for question in QUESTIONS[:2]]) == expected
    assert len(embedded) == 5


@pytest.mark.parametrize("cluster_id", [-1, 3])
def test_a_cluster_that_is_not_there(router, cluster_id):
    with pytest.raises(RoutingError, match=rf"cluster_id is {cluster_id}; a/model has clusters 0 to 2"):
        router.route([Request("Why?", cluster_id=cluster_id)])


def test_a_model_without_clusters():
    router = PromptRouter(None, "a/model")
    assert router.route([Request("Why?"), Request("How?")]) == ([None, None], [None, None])
    with pytest.raises(RoutingError, match="a/model: cluster_id was given, but this model has no clusters"):
        router.route([Request("Why?", cluster_id=0)])


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ([{"name": "shapes"}, {"name": "scans"}], ["shapes", "scans"]),
        ('[{"name": "shapes"}]', ["shapes"]),
        (None, ["train"]),
    ],
)
def test_dataset_names_come_in_the_recipes_order(datasets, expected):
    assert dataset_names({"datasets": datasets}) == expected


def test_a_dataset_is_named_or_counted():
    names = ["shapes", "scans"]
    assert [dataset_id(Request("Why?", dataset=value), names, "a/model") for value in ("scans", 0)] == [1, 0]
    for missing in (None, "other", 2, -1):
        with pytest.raises(RoutingError, match=r"a/model: this model is routed by dataset.*shapes, scans"):
            dataset_id(Request("Why?", dataset=missing), names, "a/model")
