"""A metric by which checkpoints are chosen exists, and lower is better: told before anything is loaded."""

from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.validation_metrics import possible_metrics
from llava_mocle.training.run import train

BEST = {
    "load_best_model_at_end": True,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
}


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object) -> None:
        raise AssertionError("the model was loaded before the recipe was checked")

    monkeypatch.setattr("llava_mocle.training.run.load_start", load)


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        train(load_recipe(path, list(words)))
    return str(caught.value)


def test_the_metrics_of_a_recipe(recipe_file, mix: list[dict]) -> None:
    only_pictures = [mix[0], {key: value for key, value in mix[1].items() if key != "eval_data_path"}]
    clusters = ["eval_loss_cluster_0", "eval_loss_cluster_1"]
    found = possible_metrics(load_recipe(recipe_file(datasets=only_pictures)))
    assert found == ["eval_loss", "eval_loss_pictures", *clusters]
    # The baseline has them too, if the cluster model is there; stage 1 has no clusters.
    assert possible_metrics(load_recipe(recipe_file(adapter="lora")))[-2:] == clusters
    assert "eval_loss_cluster_0" not in possible_metrics(load_recipe(recipe_file(adapter="lora", cluster_model="no")))
    assert "eval_loss_cluster_0" not in possible_metrics(load_recipe(recipe_file(stage="pretrain")))


def test_the_number_of_clusters_is_the_cluster_models(recipe_file) -> None:
    """A recipe that leaves num_clusters out has 4, and this cluster model has 2."""
    recipe = load_recipe(recipe_file())
    recipe.cluster.num_clusters = 4
    assert possible_metrics(recipe)[-1] == "eval_loss_cluster_1"


@pytest.mark.parametrize("name", ["loss_geometry", "eval_loss_picture", "accuracy", "eval_runtime", "3", "sums"])
def test_an_unknown_metric(recipe_file, name: str) -> None:
    said = refusal(recipe_file(**BEST), "--metric_for_best_model", name)
    assert said.startswith(f"metric_for_best_model is {name!r}")
    assert "eval_loss, eval_loss_pictures, eval_loss_sums, eval_loss_cluster_0, eval_loss_cluster_1" in said


def test_a_metric_that_is_no_text(recipe_file) -> None:
    assert "metric_for_best_model is 3, expected" in refusal(recipe_file(**BEST, metric_for_best_model=3))


@pytest.mark.parametrize("key", ["save_strategy", "lr_scheduler_type"])
def test_an_unknown_metric_of_what_else_follows_one(recipe_file, key: str) -> None:
    value = {"save_strategy": "best", "lr_scheduler_type": "reduce_lr_on_plateau"}[key]
    keys = {"eval_strategy": "steps", "eval_steps": 1, key: value, "metric_for_best_model": "loss_geometry"}
    assert "metric_for_best_model is 'loss_geometry'" in refusal(recipe_file(**keys))


def test_greater_is_never_better(recipe_file) -> None:
    assert refusal(recipe_file(**BEST, greater_is_better=True)).startswith("greater_is_better is True: every metric")
    said = refusal(recipe_file(**BEST, lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"mode": "max"}))
    assert "mode is 'max', and every metric of validation is a loss" in said


@pytest.mark.parametrize("given", [{}, {"greater_is_better": None}, {"greater_is_better": False}])
@pytest.mark.parametrize("metric", ["loss", "eval_loss", "loss_sums", "eval_loss_cluster_1", "eval_loss_pictures"])
def test_lower_is_better_for_every_metric(recipe_file, metric: str, given: dict) -> None:
    recipe = load_recipe(recipe_file(**BEST, metric_for_best_model=metric, **given))
    assert recipe.training_arguments().greater_is_better is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"load_best_model_at_end": True}, "load_best_model_at_end is true, but eval_strategy is no"),
        ({"metric_for_best_model": "eval_loss"}, "metric_for_best_model is 'eval_loss', but eval_strategy is no"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "save_strategy is best, but eval_strategy is no"),
        (
            {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1},
            "save_strategy is best, but metric_for_best_model is not set",
        ),
        ({**BEST, "save_strategy": "no"}, "load_best_model_at_end"),
        ({**BEST, "save_strategy": "epoch"}, "load_best_model_at_end"),
    ],
)
def test_a_best_checkpoint_that_there_cannot_be(recipe_file, changes: dict, message: str) -> None:
    assert message in refusal(recipe_file(**changes))


def test_a_best_checkpoint_without_held_out_rows(recipe_file, mix: list[dict]) -> None:
    trained = [{key: value for key, value in spec.items() if key != "eval_data_path"} for spec in mix]
    assert "no dataset names held-out rows" in refusal(recipe_file(**BEST, datasets=trained))


def test_a_dataset_named_like_a_cluster(recipe_file, mix: list[dict]) -> None:
    """Its loss and that of cluster 0 would be one sum."""
    said = refusal(recipe_file(datasets=[mix[0] | {"name": "cluster_0"}, mix[1]]))
    assert "the name 'cluster_0' would give its validation loss the name of a cluster's, eval_loss_cluster_0" in said
