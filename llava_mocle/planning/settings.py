"""What a recipe says about the shape of a run, read without starting one: no device, no DeepSpeed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.planning.memory import DDP, OFFLOAD, ZERO2, ZERO3, Strategy
from llava_mocle.planning.precision import FLOAT16, FLOAT32
from llava_mocle.recipe.deepspeed_config import read_deepspeed
from llava_mocle.recipe.keys import USUAL_LENGTH
from llava_mocle.recipe.recipe import Recipe

_WEIGHT_BYTES = {"float32": FLOAT32, "bfloat16": FLOAT16, "float16": FLOAT16}
# Optimizer state a parameter: the moments' bytes. Others are taken as Adam.
_MOMENTS = {"adamw_8bit": 2, "adamw_bnb_8bit": 2, "sgd": 0, "adafactor": 0}


@dataclass(frozen=True)
class Settings:
    """The recipe's own choices.

    Attributes:
        micro_batch: samples a GPU and forward.
        accumulation: micro-batches an optimizer step.
        checkpointing: whether activations are recomputed.
        strategy: how its DeepSpeed configuration splits the state.
        half: `bf16` or `fp16`.
        weights: bytes of a frozen weight without DeepSpeed.
        moments: bytes of optimizer state a trained parameter.
        attention: `sdpa`, `eager` or `flash_attention_2`.
        epochs, max_steps: as in the recipe; max_steps 0: none.
        max_length: the longest sample.
        bits, double_quant: how the linears of the language model are stored.
        supervised_head: whether head and loss are computed of supervised tokens alone, if the model allows it.
    """

    micro_batch: int
    accumulation: int
    checkpointing: bool
    strategy: Strategy
    half: bool
    weights: int
    moments: int
    attention: str
    epochs: float
    max_steps: int
    max_length: int
    bits: int = 16
    double_quant: bool = True
    supervised_head: bool = True


def read_settings(recipe: Recipe, usual_length: int = USUAL_LENGTH) -> Settings:
    """`Settings` of a recipe that runs on GPUs.

    Args:
        usual_length: the longest sample in tokens where the recipe says nothing.

    Raises:
        ConfigError: its DeepSpeed configuration cannot be read, or its batch is not a positive number.
    """
    keys = recipe.trainer
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if not isinstance(keys[key], int) or keys[key] < 1:
            raise ConfigError(f"{key} is {keys[key]!r}, expected a whole number from 1")
    half = bool(keys.get("bf16") or keys.get("fp16"))
    dtype = recipe.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if keys.get("bf16") else "float32"
    attention = recipe.model.attn_implementation
    return Settings(
        micro_batch=keys["per_device_train_batch_size"],
        accumulation=keys["gradient_accumulation_steps"],
        checkpointing=bool(keys.get(checkpointing_key(keys))),
        strategy=_strategy(keys.get("deepspeed")),
        half=half,
        weights=_WEIGHT_BYTES[dtype],
        moments=_MOMENTS.get(str(keys.get("optim")), 8),
        attention="sdpa" if attention == "auto" else attention,
        epochs=float(keys["num_train_epochs"]),
        max_steps=max(int(keys["max_steps"]), 0),
        max_length=recipe.data.model_max_length or usual_length,
        bits=recipe.model.bits,
        double_quant=recipe.model.double_quant,
        supervised_head=recipe.stage.supervised_head,
    )


def checkpointing_key(keys: Mapping[str, Any]) -> str:
    """The recipe key that decides: transformers' where it is given, else LLaVA's (see `MocleTrainingArguments`)."""
    given = keys.get("activation_checkpointing") is not None
    return "activation_checkpointing" if given else "gradient_checkpointing"


def _strategy(config: Any) -> Strategy:
    """What a DeepSpeed configuration (a path, JSON or its contents) amounts to."""
    config = read_deepspeed(config)
    if not config:
        return DDP
    zero = config.get("zero_optimization", {})
    if zero.get("stage", 0) < 3:
        return ZERO2 if zero.get("stage", 0) else DDP
    offloads = [zero.get(key, {}).get("device", "none") for key in ("offload_param", "offload_optimizer")]
    return OFFLOAD if any(device != "none" for device in offloads) else ZERO3
