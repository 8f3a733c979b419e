"""Model folders: finding them, and telling their kinds apart by their files."""

import os
from pathlib import Path
from typing import Any, Literal

from llava_mocle.errors import CheckpointError
from llava_mocle.families.model_types import is_known, known_types
from llava_mocle.io.hub import find_snapshot
from llava_mocle.io.jsonl import read_json
from llava_mocle.io.paths import looked_for

Kind = Literal["base", "stage1", "adapter", "legacy"]

ADAPTER_CONFIG = "adapter_config.json"
PROJECTOR_CONFIG = "mm_projector_config.json"
PROJECTOR_WEIGHTS = "mm_projector.safetensors"
LEGACY_PROJECTOR_WEIGHTS = "mm_projector.bin"
# What the original LLaVA code leaves beside its LoRA weights: the projector.
ORIGINAL_LORA_EXTRAS = "non_lora_trainables.bin"
TEMPLATE_FILE = "llava_mocle.json"
RECIPE_FILE = "recipe.yaml"
CLUSTERS_FOLDER = "clusters"


def read_recipe(folder: Path) -> dict[str, Any]:
    """The resolved recipe saved in a checkpoint; {} where the folder has none."""
    import yaml

    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read as YAML ({error}); the folder is damaged.") from error
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{path}: holds a {type(recipe).__name__}, expected keys and values.")
    return recipe


def find_folder(
    name: str | Path, what: str, remedy: str = "", beside: Path | None = None, download: bool = True
) -> Path:
    """The local folder a path or a hub name stands for.

    Args:
        name: a folder, absolute or relative to the working directory (or to `beside`), or `ORG/NAME` of a model on
            the Hugging Face hub: completed and updated from there unless HF_HUB_OFFLINE is set, else as the local
            cache has it.
        what: what the folder is, for the message.
        remedy: a sentence that says what to do, for the message.
        beside: a folder that relative paths may also start from.
        download: off: the hub is not asked.

    Raises:
        CheckpointError: there is no such folder.
    """
    for candidate in (Path(name), *([beside / name] if beside else [])):
        if os.path.isdir(candidate):  # unlike `Path.is_dir`, it takes any text
            return candidate
    # A name without a slash is more likely a folder, misspelt, than a model on the hub.
    if str(name).count("/") == 1:
        snapshot, reason = find_snapshot(str(name), download=download)
        if snapshot is not None:
            return snapshot
        remedy = remedy or f"As the name of a hub model: {reason}; on a machine with access: hf download {name}"
    raise CheckpointError(f"{name}: no such folder{looked_for(name)}; expected {what}. {remedy}".rstrip())


def detect_kind(folder: Path) -> Kind:
    """What a model folder holds, read from its files.

    Raises:
        CheckpointError: nothing that can be loaded as a LLaVA model; the message says what to do with what is there.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / PROJECTOR_CONFIG).is_file():
        return "stage1"
    if not (folder / "config.json").is_file():
        raise CheckpointError(_nothing_to_load(folder))
    config = read_json(folder / "config.json")
    if is_known(config.get("model_type")) and "mm_vision_tower" not in config:
        return "base"
    if "mm_vision_tower" in config:
        # Published checkpoints keep stage 1's projector beside the whole model's weights.
        if (folder / LEGACY_PROJECTOR_WEIGHTS).is_file() and not weight_files(folder):
            raise CheckpointError(
                f"{folder}: is a stage-1 folder of the original LLaVA code: a projector without its language model. "
                f"Build a base folder with `llava-mocle build`, then pass {folder / LEGACY_PROJECTOR_WEIGHTS} as "
                "pretrain_mm_mlp_adapter."
            )
        return "legacy"
    raise CheckpointError(
        f"{folder}/config.json: model_type is {config.get('model_type')!r}, which is not a LLaVA model, nor "
        f"another one that is known here ({', '.join(known_types())}). To use a plain language model, join it to a "
        "vision tower first: llava-mocle build --language-model ... --vision-tower ..."
    )


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a whole model: its *.safetensors or else its pytorch_model*.bin."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def is_original(folder: Path) -> bool:
    """Whether a folder was written by the original LLaVA code; says nothing of whether it is complete."""
    marks = (folder / ADAPTER_CONFIG, folder / PROJECTOR_CONFIG)
    if any(mark.is_file() for mark in marks) or not (folder / "config.json").is_file():
        return False
    return "mm_vision_tower" in read_json(folder / "config.json")


def _nothing_to_load(folder: Path) -> str:
    message = f"{folder}: is not a model folder: it has no config.json, {ADAPTER_CONFIG} or {PROJECTOR_CONFIG}."
    inside = sorted(
        (p for p in folder.glob("checkpoint-*") if p.is_dir()), key=lambda p: (len(p.name), p.name), reverse=True
    )
    return message + (f" It holds checkpoints; give one of them, for example {inside[0]}." if inside else "")
