"""The flags of LLaVA's command line, and what each does here: docs/training.md shows this table."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.hf_argparser import string_to_bool

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.remarks import remark
from llava_mocle.recipe.shipped import shipped_files
from llava_mocle.recipe.values import is_set

# LLaVA's names of prompt templates that are not here.
_OTHER_TEMPLATES = (
    "v0", "v0.5", "default", "llava_v0", "v0_mmtag", "llava_v1", "v1_mmtag", "llava_llama_2", "mpt", "mpt_text",
    "mistral_instruct", "mistral_direct", "chatml_direct",
)  # fmt: skip
NO_FULL_FINE_TUNING = (
    "without LoRA, LLaVA trains the whole language model, and here it stays frozen. The nearest thing is "
    "--lora_enable True with a larger --lora_r. Or train with LLaVA's code and give the result as --model_name_or_path"
)


def _any(_: Any) -> bool:
    return True


def _is_unset(value: Any) -> bool:
    return not is_set(value)


@dataclass(frozen=True)
class LlavaFlag:
    """One flag of LLaVA's, or of the transformers that LLaVA was written for.

    Attributes:
        name: without the dashes.
        text: what it does here, as Markdown for the table in docs/training.md.
        own: it is a key of ours under the same name, and its value is left as it is.
        kind: the type of its value.
        fits: whether a value can be taken; other values are refused.
        otherwise: why they are refused, and the nearest thing that works.
        becomes: value -> the keys of ours that say the same; empty where nothing needs to be said.
        default: LLaVA's default where ours is another one; `as_llava` sets it.
    """

    name: str
    text: str
    own: bool = False
    kind: type = str
    fits: Callable[[Any], bool] = _any
    otherwise: str = ""
    becomes: Callable[[Any], dict[str, Any]] = lambda _: {}
    default: str | None = None

    def read(self, place: str, raw: Any) -> Any:
        """Its value, from a word of the command line or a value of a YAML file; LLaVA's 1 and "True" are true.

        Raises:
            ConfigError: of another kind, or refused.
        """
        value = raw
        try:
            if self.kind is bool and not isinstance(raw, bool):
                value = string_to_bool(str(raw))
            elif self.kind is int:
                value = int(str(raw))
        except (argparse.ArgumentTypeError, ValueError) as error:
            expected = "True or False" if self.kind is bool else "a whole number"
            raise ConfigError(f"{place}{self.name} is {raw!r}, expected {expected}") from error
        if not self.fits(value):
            raise ConfigError(f"{place}{self.name} is {raw!r}: {self.otherwise}")
        return value


def _own(name: str, text: str = "the same here", default: str | None = None) -> LlavaFlag:
    return LlavaFlag(name, text, own=True, default=default)


def _stated(name: str, kind: type, text: str) -> LlavaFlag:
    """A flag whose every value leaves things as they are."""
    return LlavaFlag(name, text, kind=kind)


def _renamed(name: str, key: str, kind: type = str) -> LlavaFlag:
    return LlavaFlag(name, f"becomes `{key}`", kind=kind, becomes=lambda value: {key: value})


def _unset(name: str, otherwise: str) -> LlavaFlag:
    """A flag of which no value can be taken but "none"."""
    return LlavaFlag(name, f"refused: {otherwise}", fits=_is_unset, otherwise=otherwise)


def _only(name: str, value: Any, otherwise: str, text: str = "as here") -> LlavaFlag:
    """A flag of which one value can be taken: the one that says what is done anyway."""
    return LlavaFlag(
        name,
        f"`{value}`: {text}. Others refused: {otherwise}",
        kind=type(value),
        fits=lambda given: given == value,
        otherwise=otherwise,
    )


def _deepspeed(config: Any) -> dict[str, Any]:
    """LLaVA's scripts name files of LLaVA's repository: one that is not there becomes ours of that name."""
    if isinstance(config, str) and config.endswith(".json") and not Path(config).exists():
        ours = shipped_files().get(f"zero_configs/{Path(config).name}")
        if ours is not None:
            remark(f"deepspeed is {config}, which is not there: taking {ours}")
            return {"deepspeed": str(ours)}
    return {"deepspeed": config}


_NO_NEW_TOKENS = "the vocabulary is not extended, and images take no tokens but their features; give False"
_ONLY_MLP = "the projector is always LLaVA-1.5's two layers; give mlp2x_gelu, and a stage-1 projector of that type"

MODEL_FLAGS = (
    _own("model_name_or_path"),
    LlavaFlag(
        "version",
        "the same here: `v1` (or `vicuna_v1`), `plain`, `llama_2`. LLaVA's other templates are refused; `mistral` and "
        "`chat` (the tokenizer's own) are ours. LLaVA's default, `v0`, is not here: say which one",
        fits=lambda value: value not in _OTHER_TEMPLATES,
        otherwise="that template is not here; known are v1, plain, llama_2, mistral and chat (the tokenizer's own)",
        becomes=lambda name: {"version": "plain" if name == "v0_plain" else name},
    ),
    _stated("freeze_backbone", bool, "any value: the language model is always frozen"),
    LlavaFlag(
        "tune_mm_mlp_adapter",
        "True: `stage: pretrain`, which trains the projector alone. False: `stage: finetune`",
        kind=bool,
        becomes=lambda tune: {"stage": "pretrain" if tune else "finetune"},
    ),
    _own("vision_tower"),
    _own("mm_vision_select_layer", "the same here; LLaVA's default holds where `vision_tower` is given", default="-1"),
    _own("pretrain_mm_mlp_adapter", "the same here: LLaVA's `mm_projector.bin` is read as it is"),
    _only(
        "mm_projector_type", "mlp2x_gelu", _ONLY_MLP, "as here. LLaVA's default, `linear`, is not here: say this one"
    ),
    _only("mm_use_im_start_end", False, _NO_NEW_TOKENS),
    _only("mm_use_im_patch_token", False, _NO_NEW_TOKENS, "as here, and so is leaving it out"),
    _only("mm_patch_merge_type", "flat", "that is LLaVA-1.6's way to cut an image into tiles; give flat"),
    _own("mm_vision_select_feature"),
    _only(
        "unfreeze_mm_vision_tower",
        False,
        "the vision tower is always frozen; a tower that was trained elsewhere can be given as --vision_tower",
    ),
)
DATA_FLAGS = (
    _own("data_path"),
    _stated("lazy_preprocess", bool, "any value: rows are checked and measured first, images are read while training"),
    _stated("is_multimodal", bool, "any value: rows with and without images are mixed"),
    _own("image_folder"),
    _own("image_aspect_ratio", "the same here: `pad` or `square`; `anyres` is LLaVA-1.6's", default="square"),
    _unset("image_grid_pinpoints", "an image is one square here, and not cut into tiles; leave it out"),
)
TRAINING_FLAGS = (
    _unset("cache_dir", "set the environment variable HF_HUB_CACHE to that folder instead, and leave it out"),
    _own("optim"),
    _own("remove_unused_columns", "False: as here. True: refused, as the rows' clusters would be dropped"),
    LlavaFlag(
        "freeze_mm_mlp_adapter",
        "True: `mm_projector_lr: 0`, so that the projector stays as it is (its gradients still count in the gradient "
        "norm). False: as here",
        kind=bool,
        becomes=lambda freeze: {"mm_projector_lr": 0.0} if freeze else {},
    ),
    _unset("mpt_attn_impl", "MPT language models are not here; leave it out (for others: --attn_implementation)"),
    _own("model_max_length", "the same here; a row whose image would be cut is dropped", default="512"),
    *map(_own, ("double_quant", "quant_type")),
    _own("bits", "the same here: 4 and 8 need `pip install 'llava_mocle[qlora]'`"),
    LlavaFlag(
        "lora_enable",
        "True: as here. For `train_mem` it means LLaVA's LoRA, `adapter: lora`, unless `--adapter` or "
        f"`--cluster_model` is given. False or left out in stage 2: refused: {NO_FULL_FINE_TUNING}",
        kind=bool,
    ),
    _own("lora_r", "the same here: the rank of every expert", default="64"),
    _own("lora_alpha", default="16"),
    _own("lora_dropout", default="0.05"),
    _unset(
        "lora_weight_path",
        "LLaVA itself never reads it; start from a LoRA with --warm_start FOLDER, or go on from a checkpoint with "
        "--resume FOLDER",
    ),
    LlavaFlag(
        "lora_bias",
        "`none`: as here. Others refused: biases are not trained; give none",
        fits=_is_unset,
        otherwise="biases are not trained; give none",
    ),
    _own("mm_projector_lr"),
    _own("group_by_modality_length", default="False"),
)
TRANSFORMERS_FLAGS = (
    _renamed("evaluation_strategy", "eval_strategy"),
    LlavaFlag(
        "deepspeed",
        "the same here. LLaVA's `./scripts/zero2.json`, `zero3.json` and `zero3_offload.json` become ours of that name "
        "in `zero_configs/`, unless such a file is there",
        becomes=_deepspeed,
    ),
    _own("tf32", "the same here; where no device has TF32, a message says so and it does nothing"),
    _own("report_to", "the same here: `wandb` needs `pip install wandb`; else give `tensorboard` or `none`"),
    *map(_own, ("bf16", "gradient_checkpointing", "warmup_ratio", "weight_decay", "dataloader_num_workers")),
    _own("learning_rate", default="5e-5"),
    _own("num_train_epochs", default="3"),
    _own("lr_scheduler_type", default="linear"),
    _own("save_total_limit", "the same here; 2 is safer, as a damaged checkpoint is passed over"),
    _stated("local_rank", int, "any value: the launcher's environment says it"),
    _stated("overwrite_output_dir", bool, "any value: `resume` decides, and goes on from the newest checkpoint"),
    _unset("logging_dir", "set the environment variable TENSORBOARD_LOGGING_DIR to that folder, and leave it out"),
    _only("save_safetensors", True, "weights are never written as pickles; give True"),
    _renamed("no_cuda", "use_cpu", bool),
    _renamed("per_gpu_train_batch_size", "per_device_train_batch_size", int),
    _renamed("per_gpu_eval_batch_size", "per_device_eval_batch_size", int),
    _only("group_by_length", False, "samples are grouped by modality and length: --group_by_modality_length True"),
    LlavaFlag(
        "adafactor",
        "True: `optim: adafactor`. False: as here",
        kind=bool,
        becomes=lambda yes: {"optim": "adafactor"} if yes else {},
    ),
    _stated("half_precision_backend", str, "any value: PyTorch's own autocast is used"),
)
FLAGS = (*MODEL_FLAGS, *DATA_FLAGS, *TRAINING_FLAGS, *TRANSFORMERS_FLAGS)
