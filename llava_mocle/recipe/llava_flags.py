"""Translates LLaVA's command lines into our keys."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.llava_table import FLAGS, NO_FULL_FINE_TUNING
from llava_mocle.recipe.remarks import remark

# The linears of a Llama, Vicuna, Mistral or Qwen language model, which LLaVA's LoRA adapts.
_ALL_LINEARS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
_TRANSLATED = {flag.name: flag for flag in FLAGS if not flag.own}
# Our keys that a translation can set, so that the same setting given twice is noticed.
_TARGETS = {
    "stage": str, "mm_projector_lr": float, "eval_strategy": str, "use_cpu": bool, "per_device_train_batch_size": int,
    "per_device_eval_batch_size": int, "optim": str,
}  # fmt: skip
_LORA_DEFAULTS = ("lora_r", "lora_alpha", "lora_dropout")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; docs/training.md lists LLaVA's flags, `llava-mocle train --help` the keys")


def _split(words: Sequence[str], kinds: Mapping[str, type]) -> tuple[dict, list]:
    """Flag -> its last word, for the flags in `kinds`; and all other words in their order."""
    parser = _Parser(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    for name, kind in kinds.items():
        value: dict[str, Any] = {"nargs": "?", "const": "True"} if kind is bool else {}
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), dest=name, **value)
    found, rest = parser.parse_known_args(list(words))
    return vars(found), rest


def _split_flags(words: Sequence[str]) -> tuple[dict, list]:
    return _split(words, {name: flag.kind for name, flag in _TRANSLATED.items()})


def translate(words: Sequence[str]) -> list[str]:
    """The command line with our keys in place of LLaVA's flags.

    Raises:
        ConfigError: a flag or value that cannot be taken, with the reason and the nearest thing that works.
    """
    given, rest = _split_flags(words)
    if not given:
        return list(words)
    others, _ = _split(rest, _TARGETS)
    return rest + [f"--{key}={value}" for key, value in _translated("", given, others).items()]


def translate_keys(path: str | Path, values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same for the keys of a YAML file.

    Raises:
        ConfigError: as `translate`.
    """
    given = {key: value for key, value in values.items() if key in _TRANSLATED}
    others = {key: value for key, value in values.items() if key not in _TRANSLATED}
    return others | _translated(f"{path}: ", given, others)


def _translated(place: str, given: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """LLaVA's flags as keys of ours.

    Args:
        place: what an error message begins with.
        given: flag -> its value as it was written.
        others: our own keys that were given beside them.
    """
    values = {name: _TRANSLATED[name].read(place, raw) for name, raw in given.items()}
    keys: dict[str, Any] = {}
    for name, value in values.items():
        for key, ours in _TRANSLATED[name].becomes(value).items():
            if key in others and str(others[key]).lower() != str(ours).lower():
                raise ConfigError(
                    f"{place}{name} is {given[name]!r}, which is {key} {ours!r} here, and {key} is {others[key]!r}; "
                    "keep one of them"
                )
            keys[key] = ours
    pretrain = keys.get("stage", others.get("stage")) == "pretrain"
    if values.get("lora_enable") is False and not pretrain:
        raise ConfigError(f"{place}lora_enable is {given['lora_enable']!r}: {NO_FULL_FINE_TUNING}")
    if values.get("freeze_mm_mlp_adapter") and pretrain:
        raise ConfigError(
            f"{place}freeze_mm_mlp_adapter is {given['freeze_mm_mlp_adapter']!r} in stage 1, which trains the "
            "projector alone: nothing would be trained; leave it out"
        )
    return keys


def as_llava(words: Sequence[str]) -> list[str]:
    """LLaVA's command line with LLaVA's defaults for the flags that are left out, for `llava_mocle.train_mem`.

    `--lora_enable True` alone chooses LLaVA's LoRA. `--adapter`, or a `--cluster_model`, chooses one of ours.

    Raises:
        ConfigError: it asks for full fine-tuning, or leaves out a flag whose default in LLaVA is not here.
    """
    if words and not words[0].startswith("-"):
        raise ConfigError(
            f"{words[0]!r}: train_mem takes flags alone, as LLaVA's does; `llava-mocle train RECIPE` takes a recipe"
        )
    given, rest = _split_flags(words)
    own, _ = _split(rest, dict.fromkeys(("stage", "adapter", "cluster_model", "vision_tower"), str))
    for name, usual in (("version", "v1, or plain for stage 1"), ("mm_projector_type", "mlp2x_gelu")):
        if name not in given:
            raise ConfigError(f"{name} is not given, and LLaVA's default is not here; give --{name} {usual}")
    pretrain = own.get("stage") == "pretrain" or _true(given, "tune_mm_mlp_adapter")
    left_out = [] if own.get("vision_tower") else ["mm_vision_select_layer"]
    words = list(words)
    if not pretrain:
        adapter = own.get("adapter") or _adapter_for(given, own.get("cluster_model"))
        if adapter == "lora":
            words = ["--lora_target_modules", _ALL_LINEARS, *words]
        words = ["--adapter", adapter, *words]
        left_out += [] if adapter == "lora" else _LORA_DEFAULTS
    # In front, so that what the command line says has the last word.
    defaults = [f"--{flag.name}={flag.default}" for flag in FLAGS if flag.default and flag.name not in left_out]
    return [*defaults, *words]


def _adapter_for(given: Mapping[str, Any], cluster_model: str | None) -> str:
    """The adapter of a stage 2 that names none."""
    if cluster_model:
        remark("cluster_model is given: training MoCLE (--adapter lora trains LLaVA's LoRA)")
        return "mocle"
    if not _true(given, "lora_enable"):
        raise ConfigError(f"lora_enable is not True: {NO_FULL_FINE_TUNING}")
    remark(
        "lora_enable is True: training LLaVA's single LoRA, the baseline of MoCLE. For MoCLE, add --adapter mocle "
        "--cluster_model FOLDER (docs/training.md: Coming from LLaVA)"
    )
    return "lora"


def _true(given: Mapping[str, Any], name: str) -> bool:
    return name in given and bool(_TRANSLATED[name].read("", given[name]))
