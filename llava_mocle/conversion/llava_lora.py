"""A LoRA folder of the original LLaVA-1.5 code -> a plain PEFT LoRA on a base that is loaded here.

That code writes PEFT's `adapter_config.json` and weights for its own model class, config.json, and the trained
projector in `non_lora_trainables.bin`.
"""

from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_mocle.conversion.adapter_folder import (
    PREFIX,
    base_name,
    difference,
    expected_weights,
    read_config,
    write_adapter,
)
from llava_mocle.errors import CheckpointError
from llava_mocle.io.folders import new_folder, refuse_to_overwrite
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import ADAPTER_CONFIG, ORIGINAL_LORA_EXTRAS, RECIPE_FILE, detect_kind, find_folder
from llava_mocle.model.original import original_tower, refuse_other_designs, text_config_of, to_hf
from llava_mocle.model.projector import MODULE_NAME
from llava_mocle.model.weights import read_weights

# Fields of a LoRA that would change what it computes -> the only values that LLaVA-1.5's code writes.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
}
_ASPECT_RATIOS = {"pad": "pad", "square": "square", None: "square"}
_HALVES = (".lora_A.weight", ".lora_B.weight")


def convert_llava_lora(
    folder: str | Path, base: str | Path, output: str | Path, *, vision_tower: str | Path | None = None
) -> list[str]:
    """Write the adapter folder.

    Args:
        folder: adapter_config.json, adapter_model.bin or .safetensors, non_lora_trainables.bin, config.json.
        base: the LLaVA base folder to put it on, with the language model that it was trained on: one of
            `llava-mocle build`, a LLaVA of transformers', or a folder of the original code.
        output: the folder to create.
        vision_tower: of an original base folder, in place of the one that its config names.

    Returns:
        lines that say what was read.

    Raises:
        CheckpointError: a file is missing or damaged, the LoRA is of a kind that the original code does not write, or
            a weight has no place in the base.
    """
    refuse_to_overwrite(output)
    source = find_folder(folder, "a LoRA folder of the original LLaVA code")
    target = find_folder(base, "a LLaVA base folder")
    lora_settings = read_json(source / ADAPTER_CONFIG, "it is no LoRA folder")
    settings = read_json(source / "config.json", "the original code writes it beside the LoRA: copy it too")
    _refuse_other_loras(source / ADAPTER_CONFIG, lora_settings)
    refuse_other_designs(source, settings)
    aspect_ratio = settings.get("image_aspect_ratio")
    if aspect_ratio not in _ASPECT_RATIOS:
        raise CheckpointError(
            f"{source}/config.json: image_aspect_ratio is {aspect_ratio!r}; LLaVA-1.5 has 'pad' or 'square', and only "
            "its layout can be loaded."
        )
    weights = _weights(source)
    config = _config(lora_settings, weights, base_name(base))
    expected, _ = expected_weights(LlavaForConditionalGeneration, _base_config(target, vision_tower), config)
    if (reason := difference(expected, weights)) is not None:
        raise CheckpointError(f"{source}: does not fit {target}: {reason}. Give the base that it was trained on.")
    with new_folder(output) as aside:
        write_adapter(aside, config, weights)
        recipe = {"image_aspect_ratio": _ASPECT_RATIOS[aspect_ratio]}
        (aside / RECIPE_FILE).write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return [
        f"{len(config.target_modules)} linears of rank {config.r}, alpha {config.lora_alpha:g}, and the projector",
        f"trained on {lora_settings.get('base_model_name_or_path')!r}; on {target} from now on",
        f"images: {_ASPECT_RATIOS[aspect_ratio]}; the prompt template is the base's",
    ]


def _refuse_other_loras(path: Path, settings: dict[str, Any]) -> None:
    for field, values in _PLAIN.items():
        if settings.get(field) not in values:
            raise CheckpointError(
                f"{path}: {field} is {settings.get(field)!r}; the original LLaVA code writes {values[0]!r}, and only "
                "its LoRAs are converted."
            )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights, as PEFT saves them for transformers' LLaVA.

    Raises:
        CheckpointError: a file is missing, or a name is not the original code's.
    """
    file = next((folder / n for n in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME) if (folder / n).is_file()), None)
    extras = folder / ORIGINAL_LORA_EXTRAS
    for path, name in ((file, f"{SAFETENSORS_WEIGHTS_NAME} or {WEIGHTS_NAME}"), (extras, ORIGINAL_LORA_EXTRAS)):
        if path is None or not path.is_file():
            raise CheckpointError(f"{folder / name}: no such file; the LoRA folder is incomplete.")
    assert file is not None
    lora = {_plain(name): tensor for name, tensor in read_weights(file).items()}
    beside = {_plain(name): tensor for name, tensor in read_weights(extras).items()}
    for path, names, ours in ((file, lora, _HALVES), (extras, beside, ())):
        odd = [name for name in names if bool(ours) != name.endswith(_HALVES) or not torch.is_tensor(names[name])]
        if odd:
            what = "LoRA's" if ours else "of a trained projector"
            raise CheckpointError(f"{path}: {len(odd)} weight(s) are not {what}, for example {', '.join(odd[:3])}.")
    return {PREFIX + name: tensor for name, tensor in to_hf(lora | beside).items()}


def _plain(name: str) -> str:
    """A weight's name in the original model, whatever wrapped it."""
    name = name.removeprefix("module.").removeprefix(PREFIX).replace(".default.", ".")
    return f"model.{name}" if name.startswith("mm_projector.") else name


def _config(settings: dict[str, Any], weights: dict[str, torch.Tensor], base: str) -> LoraConfig:
    sites = {name.removeprefix(PREFIX).removesuffix(_HALVES[0]) for name in weights if name.endswith(_HALVES[0])}
    return LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout") or 0.0,
        use_rslora=bool(settings.get("use_rslora")),
        # Whole names: by its end, `q_proj` would be the vision tower's too.
        target_modules=sorted(sites),
        modules_to_save=[MODULE_NAME],
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base,
    )


def _base_config(base: Path, vision_tower: str | Path | None) -> Any:
    """The configuration of a base folder of either layout; what does not decide shapes may differ."""
    if detect_kind(base) != "legacy":
        return read_config(base, LlavaForConditionalGeneration)
    tower = AutoConfig.from_pretrained(original_tower(base, vision_tower))
    vision_config = getattr(tower, "vision_config", tower)
    return LlavaConfig(text_config=text_config_of(read_json(base / "config.json")), vision_config=vision_config)
