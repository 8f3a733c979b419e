"""Every flag of LLaVA's: taken, said by a key of ours, or refused with what works instead; docs/training.md says which.

`python -m tests.recipe.test_llava_flags` writes the table into docs/training.md.
"""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from llava_mocle.errors import ConfigError
from llava_mocle.recipe import llava_table
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.llava_flags import as_llava, translate
from llava_mocle.recipe.llava_table import FLAGS, LlavaFlag
from llava_mocle.recipe.recipe import Recipe, known_keys, load_recipe
from tests.llava_lists import FIELDS, FINETUNE, FINETUNE_LORA, FINETUNE_TASK_LORA, PRETRAIN

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
BEGIN, END = "<!-- LLaVA's flags: begin -->\n", "<!-- LLaVA's flags: end -->\n"
BY_NAME = {flag.name: flag for flag in FLAGS}
GROUPS = {
    "Model": llava_table.MODEL_FLAGS,
    "Data": llava_table.DATA_FLAGS,
    "Training": llava_table.TRAINING_FLAGS,
    "transformers": llava_table.TRANSFORMERS_FLAGS,
}


def table() -> str:
    lines = ["| flag | what happens here | left out, `train_mem` takes |", "|---|---|---|"]
    for flags in GROUPS.values():
        lines += [f"| `{flag.name}` | {flag.text} | {f'`{flag.default}`' if flag.default else ''} |" for flag in flags]
    return "\n".join(lines) + "\n"


def resolved(words: list[str]) -> Recipe:
    return load_recipe(None, as_llava(words))


def test_every_field_of_llavas_classes_has_its_place() -> None:
    for group, flags in list(GROUPS.items())[:3]:
        missing = set(FIELDS[f"{group}Arguments"]) - {flag.name for flag in flags}
        assert not missing, group
    assert len(BY_NAME) == len(FLAGS)


def test_every_flag_of_llavas_scripts_has_its_place() -> None:
    ours = set(known_keys())
    for words in (PRETRAIN, FINETUNE, FINETUNE_LORA, FINETUNE_TASK_LORA):
        for name in (word[2:] for word in words if word.startswith("--")):
            assert name in BY_NAME or name in ours, name


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.own], ids=lambda flag: flag.name)
def test_what_is_said_to_be_the_same_is_a_key(flag: LlavaFlag) -> None:
    assert flag.name in known_keys()


def test_the_docs_hold_the_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == table(), "run python -m tests.recipe.test_llava_flags"


# Flag -> (words that are taken, and the key that they become; a word that is refused, and what its message offers).
VALUES = {
    "version": (["v1", "plain", "llama_2"], None, "v0", "known are v1, plain"),
    "freeze_backbone": (["True", "False", "0"], None, "maybe", "expected True or False"),
    "tune_mm_mlp_adapter": (["True", "1"], ("stage", "pretrain"), "2", "expected True or False"),
    "mm_projector_type": (["mlp2x_gelu"], None, "linear", "mlp2x_gelu"),
    "mm_use_im_start_end": (["False", "0"], None, "True", "give False"),
    "mm_use_im_patch_token": (["False"], None, "1", "give False"),
    "mm_patch_merge_type": (["flat"], None, "spatial_unpad", "give flat"),
    "unfreeze_mm_vision_tower": (["False"], None, "True", "--vision_tower"),
    "lazy_preprocess": (["True", "False"], None, "x", "expected True or False"),
    "is_multimodal": (["True", "1"], None, "x", "expected True or False"),
    "image_grid_pinpoints": (["none"], None, "[(336,672)]", "leave it out"),
    "cache_dir": (["none", ""], None, "/models", "HF_HUB_CACHE"),
    "freeze_mm_mlp_adapter": (["True"], ("mm_projector_lr", 0.0), "x", "expected True or False"),
    "mpt_attn_impl": ([""], None, "triton", "--attn_implementation"),
    "lora_enable": (["True", "1"], ("adapter", "mocle"), "False", "--lora_enable True"),
    "lora_weight_path": ([""], None, "old/lora", "--resume FOLDER"),
    "lora_bias": (["none"], None, "all", "give none"),
    "evaluation_strategy": (["steps"], ("eval_strategy", "steps"), "sometimes", "steps"),
    "deepspeed": (["none"], ("deepspeed", None), None, ""),
    "local_rank": (["-1", "3"], ("local_rank", -1), "x", "expected a whole number"),
    "overwrite_output_dir": (["True", "False"], None, "x", "expected True or False"),
    "logging_dir": (["none"], None, "logs", "TENSORBOARD_LOGGING_DIR"),
    "save_safetensors": (["True"], None, "False", "give True"),
    "no_cuda": (["True"], ("use_cpu", True), "x", "expected True or False"),
    "per_gpu_train_batch_size": (["3"], ("per_device_train_batch_size", 3), "x", "expected a whole number"),
    "per_gpu_eval_batch_size": (["3"], ("per_device_eval_batch_size", 3), "x", "expected a whole number"),
    "group_by_length": (["False"], None, "True", "--group_by_modality_length True"),
    "adafactor": (["True"], ("optim", "adafactor"), "x", "expected True or False"),
    "half_precision_backend": (["auto", "cuda_amp"], None, None, ""),
}


def value_of(recipe: Recipe, key: str) -> object:
    value = recipe.as_dict().get(key, recipe.trainer.get(key))
    return getattr(value, "value", value)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if not flag.own], ids=lambda flag: flag.name)
def test_what_is_taken_and_what_is_refused(flag: LlavaFlag, tmp_path: Path) -> None:
    taken, becomes, refused, offer = VALUES[flag.name]
    for word in taken:
        for recipe in (load_recipe(None, [f"--{flag.name}", word]), load_recipe(_file(tmp_path, {flag.name: word}))):
            if becomes:
                assert value_of(recipe, becomes[0]) == becomes[1]
            assert flag.name in ("version", "deepspeed", "local_rank") or flag.name not in recipe.given
    if refused is not None:
        for words, file in (([f"--{flag.name}", refused], None), ([], _file(tmp_path, {flag.name: refused}))):
            with pytest.raises(ConfigError, match=re.escape(offer)) as caught:
                load_recipe(file, words)
            assert refused in str(caught.value)


def _file(folder: Path, values: dict) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_yaml_values_need_not_be_text(tmp_path: Path) -> None:
    recipe = load_recipe(_file(tmp_path, {"bits": 4, "tune_mm_mlp_adapter": 1, "mm_use_im_start_end": False}))
    assert (recipe.stage.stage, recipe.model.bits) == ("pretrain", 4)
    with pytest.raises(ConfigError, match=r"recipe\.yaml: bits is 2, expected one of 4, 8, 16"):
        load_recipe(_file(tmp_path, {"bits": 2}))


def test_llavas_flags_of_quantization() -> None:
    recipe = load_recipe(None, ["--bits", "4", "--double_quant", "False", "--quant_type", "fp4"])
    assert (recipe.model.bits, recipe.model.double_quant, recipe.model.quant_type) == (4, False, "fp4")
    assert (load_recipe().model.bits, load_recipe().model.quant_type) == (16, "nf4")


def test_dashes_equals_signs_and_bare_flags() -> None:
    assert load_recipe(None, ["--tune-mm-mlp-adapter", "--evaluation-strategy=epoch"]).stage.stage == "pretrain"
    words = ["--lora_r", "4", "--mm_vision_select_layer", "-2", "--lora_bias=none", "--lora_alpha", "8"]
    assert translate(words) == [word for word in words if word != "--lora_bias=none"]


def test_what_the_file_says_gives_way_to_a_flag(tmp_path: Path) -> None:
    file = _file(tmp_path, {"tune_mm_mlp_adapter": True, "evaluation_strategy": "epoch"})
    assert load_recipe(file, ["--stage", "finetune"]).stage.stage == "finetune"
    assert value_of(load_recipe(file, ["--evaluation_strategy", "steps"]), "eval_strategy") == "steps"


def test_two_ways_to_say_one_thing_must_agree() -> None:
    assert load_recipe(None, ["--stage", "pretrain", "--tune_mm_mlp_adapter", "True"]).stage.stage == "pretrain"
    with pytest.raises(ConfigError, match=r"tune_mm_mlp_adapter is 'False', which is stage 'finetune' here"):
        load_recipe(None, ["--stage", "pretrain", "--tune_mm_mlp_adapter", "False"])
    with pytest.raises(ConfigError, match=r"nothing would be trained"):
        load_recipe(None, ["--tune_mm_mlp_adapter", "True", "--freeze_mm_mlp_adapter", "True"])
    assert load_recipe(None, ["--stage", "pretrain", "--lora_enable", "False"]).stage.stage == "pretrain"


def test_llavas_zero_files_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("zero2.json", "zero3.json", "zero3_offload.json"):
        ours = str(DOCS.parents[1] / "zero_configs" / name)
        assert load_recipe(None, ["--deepspeed", f"./scripts/{name}"]).trainer["deepspeed"] == ours
        assert f"./scripts/{name}, which is not there: taking {ours}" in caplog.text
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "zero3.json").write_text("{}")
    assert load_recipe(None, ["--deepspeed", "./scripts/zero3.json"]).trainer["deepspeed"] == "./scripts/zero3.json"
    assert load_recipe(None, ["--deepspeed", "mine.json"]).trainer["deepspeed"] == "mine.json"


@pytest.mark.parametrize("words", [FINETUNE_LORA, FINETUNE_TASK_LORA], ids=["finetune_lora", "finetune_task_lora"])
def test_llavas_lora_scripts_train_the_single_lora(words: list[str], caplog) -> None:
    recipe = resolved(["--local_rank=0", *words])
    adapter = recipe.adapter
    assert (adapter.adapter, adapter.lora_r, adapter.lora_alpha, adapter.lora_dropout) == ("lora", 128, 256, 0.05)
    assert adapter.lora_target_modules.split(",") == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip
    assert recipe.stage.stage == "finetune"
    assert recipe.trainer["lr_scheduler_type"] == "cosine"
    assert (recipe.trainer["num_train_epochs"], recipe.trainer["learning_rate"]) == (1, 2e-4)
    assert "--adapter mocle --cluster_model FOLDER" in caplog.text
    if words is FINETUNE_TASK_LORA:
        assert recipe.model.pretrain_mm_mlp_adapter is None


def test_llavas_pretrain_script_is_stage_1_with_llavas_defaults() -> None:
    recipe = resolved(PRETRAIN)
    assert recipe.stage.stage == "pretrain"
    assert not recipe.stage.group_by_modality_length
    assert (recipe.data.version, recipe.data.image_aspect_ratio) == ("plain", "square")
    assert recipe.model.mm_vision_select_layer == -2


def test_mocle_under_llavas_name_has_the_papers_experts() -> None:
    for words in (["--adapter", "mocle", "--cluster_model", "k4"], ["--cluster_model", "k4"]):
        short = ["--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--lora_enable", "True", *words]
        adapter = resolved(short).adapter
        assert (adapter.adapter, adapter.lora_r, adapter.lora_alpha, adapter.lora_dropout) == ("mocle", 128, 256, 0.0)
        assert adapter.lora_target_modules is None  # the base decides: up_proj,down_proj in a LLaVA


def test_flags_left_out_have_llavas_defaults() -> None:
    words = ["--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--lora_enable", "True", "--vision_tower", "clip"]
    values = resolved(words).as_dict()
    for flag in FLAGS:
        if flag.default:
            kind = type(values[flag.name])
            expected = flag.default == "True" if kind is bool else kind(flag.default)
            assert values[flag.name] == expected, flag.name
    without_tower = resolved(words[:-2])
    assert without_tower.model.mm_vision_select_layer is None


def test_what_train_mem_refuses() -> None:
    with pytest.raises(ConfigError, match=r"lora_enable is not True.*--lora_enable True with a larger --lora_r"):
        as_llava(FINETUNE)
    with pytest.raises(ConfigError, match=r"version is not given.*--version v1"):
        as_llava(["--lora_enable", "True"])
    with pytest.raises(ConfigError, match=r"mm_projector_type is not given.*mlp2x_gelu"):
        as_llava(["--lora_enable", "True", "--version", "v1"])
    with pytest.raises(ConfigError, match=r"my\.yaml.*llava-mocle train RECIPE"):
        as_llava(["my.yaml"])


def test_a_logger_that_is_not_installed_is_named_before_anything_is_loaded() -> None:
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    missing = {"wandb", "comet_ml", "clearml"} - set(get_available_reporting_integrations())
    if not missing:
        pytest.skip("all of them are installed")
    name = min(missing)
    recipe = load_recipe(None, ["--data_path", "rows.json", "--output_dir", "out", "--report_to", name])
    with pytest.raises(ConfigError, match=rf"report_to is '{name}'.*--report_to tensorboard or --report_to none"):
        check_recipe(recipe, recipe.training_arguments())


def test_tf32_on_a_machine_without_it_is_left_out_with_a_line(caplog) -> None:
    from transformers.utils import is_torch_tf32_available

    recipe = load_recipe(None, ["--data_path", "rows.json", "--output_dir", "out", "--tf32", "True"])
    args = recipe.training_arguments(report_to="none")
    if is_torch_tf32_available():
        assert args.tf32
    else:
        assert args.tf32 is None
        assert "tf32 does nothing on this machine" in caplog.text
    assert recipe.trainer["tf32"] is True  # the recipe that is saved says what was asked for


def test_every_flag_says_what_happens() -> None:
    for flag in FLAGS:
        assert flag.text
        assert flag.own or flag.name in VALUES
        assert "|" not in flag.text, "it would end the table's cell"
        assert flag.otherwise or flag.own or dataclasses.replace(flag).fits is llava_table._any


if __name__ == "__main__":
    before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
    DOCS.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
