"""The metrics of a validation pass: their names, and whether a recipe can choose its best checkpoint by one of them.

Each of them is a loss in nats a supervised token: lower is better.
"""

import re
from collections.abc import Collection
from pathlib import Path

from transformers.trainer_utils import SchedulerType

from llava_mocle.clustering.cluster_config import ClusterConfig
from llava_mocle.clustering.cluster_files import CONFIG_FILE
from llava_mocle.errors import ConfigError, UserError
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

LOSS = "eval_loss"
_CLUSTER = re.compile(r"cluster_\d+")
# These schedules lower the learning rate when the metric gets no better.
_FOLLOW_METRIC = ("reduce_lr_on_plateau", "greedy")


def dataset_loss(name: str) -> str:
    """The name of the loss on one dataset's held-out rows."""
    return f"{LOSS}_{name}"


def cluster_loss(cluster: int) -> str:
    """The name of the loss on the held-out rows of one cluster."""
    return f"{LOSS}_cluster_{cluster}"


def full_name(metric: str) -> str:
    """A metric's name as logs have it: transformers lets the prefix `eval_` be left out."""
    return metric if metric.startswith("eval_") else f"eval_{metric}"


def possible_metrics(recipe: Recipe) -> list[str]:
    """The metrics that the recipe's validation can have. A cluster without a held-out row will have none."""
    names = [spec.name for spec in recipe.data.dataset_specs() if spec.eval_data_path]
    return [LOSS, *map(dataset_loss, names), *map(cluster_loss, range(_num_clusters(recipe)))] if names else []


def _num_clusters(recipe: Recipe) -> int:
    """K, by which the held-out rows are told apart; 0 if they are not."""
    if recipe.stage.stage == "pretrain" or not recipe.cluster.cluster_model:
        return 0
    try:
        return ClusterConfig.read(Path(recipe.cluster.cluster_model) / CONFIG_FILE).num_clusters
    except UserError:
        # It is not there, which is told where it is needed. Baselines can do without.
        return recipe.cluster.num_clusters if recipe.adapter.adapter in ("mocle", "cluster") else 0


def check_best_checkpoint(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Refuse a best checkpoint, or a schedule that follows a metric, where no such metric will be measured.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    _refuse_names_of_clusters(recipe)
    schedule = SchedulerType(args.lr_scheduler_type).value
    options = args.lr_scheduler_kwargs
    if schedule in _FOLLOW_METRIC and isinstance(options, dict) and options.get("mode", "min") != "min":
        raise ConfigError(
            f"lr_scheduler_kwargs: mode is {options['mode']!r}, and every metric of validation is a loss, where lower "
            "is better; leave mode out"
        )
    users = [key for key, used in _uses_of_metric(recipe, args, schedule).items() if used]
    if not users:
        return
    if str(args.eval_strategy.value) == "no":
        raise ConfigError(
            f"{users[0]}, but eval_strategy is no, so no metric is ever measured; set eval_strategy to steps or epoch, "
            f"or leave {users[0].split()[0]} out"
        )
    if args.load_best_model_at_end and str(args.save_strategy.value) == "no":
        raise ConfigError(
            "load_best_model_at_end is true, but save_strategy is no, so there is no checkpoint to load; set "
            "save_strategy to the value of eval_strategy, or leave load_best_model_at_end out"
        )
    check_metric(args.metric_for_best_model, possible_metrics(recipe))


def _uses_of_metric(recipe: Recipe, args: MocleTrainingArguments, schedule: str) -> dict[str, bool]:
    """What of a recipe needs a metric, in words, and whether the recipe has it."""
    return {
        "load_best_model_at_end is true": bool(args.load_best_model_at_end),
        "save_strategy is best": str(args.save_strategy.value) == "best",
        f"lr_scheduler_type is {schedule}": schedule in _FOLLOW_METRIC,
        f"metric_for_best_model is {args.metric_for_best_model!r}": bool(recipe.trainer.get("metric_for_best_model")),
    }


def check_metric(metric: object, known: Collection[str], of: str = "a metric of this run's validation") -> None:
    """Refuse a `metric_for_best_model` that validation does not have.

    Args:
        known: the metrics that it has.
        of: what they are, for the message.

    Raises:
        ConfigError: names the metrics that it has.
    """
    if not metric:
        raise ConfigError(f"save_strategy is best, but metric_for_best_model is not set; set it, for example to {LOSS}")
    if full_name(str(metric)) not in known:
        raise ConfigError(f"metric_for_best_model is {metric!r}, expected {of}: {', '.join(known)}")


def _refuse_names_of_clusters(recipe: Recipe) -> None:
    """The losses of a dataset named cluster_0 and of cluster 0 would be added up under one name."""
    for spec in recipe.data.dataset_specs():
        if spec.eval_data_path and _CLUSTER.fullmatch(str(spec.name)):
            raise ConfigError(
                f"datasets: the name {spec.name!r} would give its validation loss the name of a cluster's, "
                f"{dataset_loss(spec.name)}; give the dataset another name"
            )
