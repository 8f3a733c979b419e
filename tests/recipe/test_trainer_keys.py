"""Every key of `transformers.TrainingArguments` is decided on: may it change on resume, is it refused, is it secret."""

import dataclasses

import pytest
from transformers import TrainingArguments

from llava_mocle.clustering.cluster_config import ClusterConfig
from llava_mocle.io.secrets import is_secret_name
from llava_mocle.recipe.keys import GROUPS, OWN_KEYS
from llava_mocle.recipe.policy import declared
from llava_mocle.recipe.recipe import known_keys, load_recipe, trainer_defaults
from llava_mocle.recipe.trainer_keys import TRAINER_POLICIES, MocleTrainingArguments, policies


def undeclared(fields: set[str], table: set[str]) -> list[str]:
    """What is wrong with a table of policies, in words."""
    redeclared = set(declared(MocleTrainingArguments))
    return [
        *(f"{key}: declare a policy in trainer_keys.py" for key in sorted(fields - table - redeclared)),
        *(f"{key}: is no field of TrainingArguments any more" for key in sorted(table - fields)),
        *(f"{key}: declared twice" for key in sorted(table & redeclared)),
    ]


def transformers_fields() -> set[str]:
    return {item.name for item in dataclasses.fields(TrainingArguments)}


def test_every_field_of_transformers_has_one_policy() -> None:
    assert undeclared(transformers_fields(), set(TRAINER_POLICIES)) == []


@pytest.mark.parametrize(
    ("fields", "table", "trouble"),
    [
        ({"new_key"}, set(), "new_key: declare a policy"),
        (set(), {"old_key"}, "old_key: is no field"),
        (set(), {"learning_rate"}, "learning_rate: declared twice"),
    ],
)
def test_the_walk_finds_what_an_upgrade_brings(fields: set[str], table: set[str], trouble: str) -> None:
    found = undeclared(transformers_fields() | fields, set(TRAINER_POLICIES) | table)
    assert len(found) == 1
    assert found[0].startswith(trouble)


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_key_of_ours_has_a_policy(group: type) -> None:
    assert set(declared(group)) == {item.name for item in dataclasses.fields(group)}


def test_the_policies_are_those_of_the_known_keys() -> None:
    initialised = {item.name for item in dataclasses.fields(MocleTrainingArguments) if item.init}
    assert set(known_keys()) == initialised | set(OWN_KEYS)
    assert set(policies()) == set(known_keys()) | transformers_fields()


def test_what_a_policy_names_exists() -> None:
    stored = {item.name for item in dataclasses.fields(ClusterConfig)}
    for key, policy in policies().items():
        assert policy.excludes is None or policies()[policy.excludes].excludes is None, key
        assert policy.belongs_to is None or policy.belongs_to in policies(), key
        assert policy.clustering is None or policy.clustering in stored, key
        assert policy.refused is None or key in trainer_defaults(), key


def test_every_key_that_sounds_secret_is() -> None:
    assert {key for key in policies() if is_secret_name(key)} == {
        key for key, policy in policies().items() if policy.secret
    }


HOW_TO_RUN = (
    "log_level", "log_level_replica", "log_on_each_node", "debug", "eval_on_start", "ddp_backend", "project",
    "trackio_space_id", "hub_model_id", "hub_token", "ddp_broadcast_buffers", "ddp_static_graph", "use_cache",
    "torch_compile", "full_determinism", "local_rank", "prediction_loss_only", "include_num_input_tokens_seen",
)  # fmt: skip
WHAT_IS_TRAINED = (
    "learning_rate", "bf16", "fp16", "tf32", "seed", "data_seed", "optim", "max_steps", "dataloader_drop_last",
    "neftune_noise_alpha", "lora_r", "version", "num_experts", "warmup_ratio", "warmup_steps",
)  # fmt: skip


def test_what_may_change_on_resume() -> None:
    assert {policies()[key].resume for key in HOW_TO_RUN} == {"free"}
    assert {policies()[key].resume for key in WHAT_IS_TRAINED} == {"same"}


def test_loggers_get_no_secrets(tmp_path) -> None:
    """What TensorBoard and W&B record."""
    zero = {"zero_optimization": {"stage": 2}, "comet": {"enabled": False, "api_key": "my-secret"}}
    recipe = load_recipe(None, ["--output_dir", str(tmp_path), "--hub_token", "my-secret"])
    args = recipe.training_arguments()
    args.deepspeed = zero
    assert "my-secret" not in args.to_json_string()
    assert "my-secret" not in str(args.to_sanitized_dict())
    assert args.to_dict()["deepspeed"]["zero_optimization"] == {"stage": 2}
