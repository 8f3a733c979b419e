"""Whether two recipes train the same: what a resumed run may not change."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from llava_mocle.io.secrets import without_secrets
from llava_mocle.recipe.keys import DataArguments
from llava_mocle.recipe.policy import Policy
from llava_mocle.recipe.trainer_keys import policies, unused_keys


def differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    known_rows: Collection[str] | None = None,
    known_held_out: Collection[str] = (),
) -> list[str]:
    """The keys that decide what is trained and differ, each with both values, ready for a message.

    Keys that do nothing with the adapter decide nothing.

    Args:
        before, now: every key with its value. A key that no policy is declared for counts as one that decides.
        known_rows: the datasets whose rows and clusters are compared by content elsewhere, so they may lie elsewhere;
            None: nothing is known by content, and the paths must be the same.
        known_held_out: likewise the datasets whose held-out rows are.
    """
    either = [dict(without_secrets(values)) for values in (before, now)]
    compared = {key for values in either for key in values if _policy(key).resume != "free"}
    if "adapter" in now:
        compared -= unused_keys(now["adapter"])
    if known_rows is not None:
        compared = {key for key in compared if _policy(key).resume == "same"} | {"datasets"}
        for values in either:
            values["datasets"] = _unplaced_datasets(values, known_rows, known_held_out)
    then, now = either
    return [
        f"{key}: {then.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(compared)
        if then.get(key) != now.get(key)
    ]


def _policy(key: str) -> Policy:
    return policies().get(key, Policy("same"))


def _unplaced_datasets(
    values: Mapping[str, Any], known_rows: Collection[str], known_held_out: Collection[str]
) -> list[dict[str, Any]]:
    """The datasets, however they were given, without the paths of what is known by content."""
    own = [item.name for item in dataclasses.fields(DataArguments)]
    datasets = []
    for spec in DataArguments(**{key: values[key] for key in own}).dataset_specs():
        entry = dataclasses.asdict(spec)
        if spec.name in known_rows:
            del entry["data_path"], entry["image_folder"]
        if spec.name in known_held_out:
            entry["eval_data_path"] = bool(spec.eval_data_path)
        datasets.append(entry)
    return datasets
