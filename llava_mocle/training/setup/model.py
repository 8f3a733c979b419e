"""The model a run starts from."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.integrations import is_deepspeed_zero3_enabled

from llava_mocle.clustering.encoder import outside_zero3
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.families.registry import family_of
from llava_mocle.io.folders import folder_aside, refuse_to_overwrite, remove_leftovers
from llava_mocle.model.base_identity import BaseIdentity, identify, refuse_other_base
from llava_mocle.model.build import build_llava
from llava_mocle.model.folders import PROJECTOR_CONFIG, TEMPLATE_FILE, detect_kind, find_folder, is_original
from llava_mocle.model.load import LoadedModel, find_whole, load_model
from llava_mocle.model.projector import load_projector
from llava_mocle.model.quantization import Quantization, prepare_for_training
from llava_mocle.recipe.keys import ModelArguments
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

logger = logging.getLogger(__name__)

_STAMP = "base_made_from.json"


def load_start(recipe: Recipe, args: MocleTrainingArguments, checkpoint: Path | None = None) -> LoadedModel:
    """The model training starts from: frozen weights, with the projector of stage 1 where there is one.

    Args:
        checkpoint: what the run goes on from.

    Raises:
        ConfigError: a key does not fit.
        CheckpointError: a folder cannot be loaded, or the base is not the one that the checkpoint or the projector was
            trained on.
    """
    source = recipe.model
    if not source.model_name_or_path:
        raise ConfigError("model_name_or_path is not set; give a LLaVA folder, or a language model and vision_tower")
    original = bool(source.vision_tower) and _is_original(source.model_name_or_path)
    if not source.vision_tower or original:
        path = source.model_name_or_path
    else:
        path = _joined_base(recipe, args)
    dtype = source.dtype
    if dtype == "auto":
        dtype = "bfloat16" if args.bf16 and args.device.type == "cuda" else "float32"
    tower = source.vision_tower if original else None
    folder = find_folder(path, "a model folder")
    refuse_adapter(folder)
    identity = identify(find_whole(folder), tower)
    _refuse_other_bases(source, checkpoint, lambda: identity)
    loaded = load_model(
        path,
        dtype=getattr(torch, dtype),
        device="cpu" if args.device.type == "cpu" else None,  # so that no kernel of a GPU is chosen
        attn=source.attn_implementation,
        template=recipe.data.version,
        vision_tower=tower,
        allow_other_base=source.allow_other_base,
        quantization=_quantization(source, args),
    )
    prepare_for_training(loaded.model)
    loaded.base_record = identity.to_json()
    if source.pretrain_mm_mlp_adapter:
        load_projector(loaded.model, source.pretrain_mm_mlp_adapter)
    if args.vision_feature_cache:
        _cache_features(loaded.model, args.vision_feature_cache)
    loaded.model.config.use_cache = loaded.model.config.get_text_config().use_cache = False
    return loaded


def _quantization(source: ModelArguments, args: MocleTrainingArguments) -> Quantization:
    compute = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    return Quantization(source.bits, source.double_quant, source.quant_type, compute)


def check_base(recipe: Recipe, checkpoint: Path | None = None) -> None:
    """The same comparison as in `load_start`, of a base that is here already: nothing is fetched, joined or loaded.

    Raises:
        CheckpointError: the base is not the one that the checkpoint or the projector was trained on.
    """
    source = recipe.model
    try:
        folder: Path | None = find_folder(str(source.model_name_or_path), "a model folder", download=False)
    except CheckpointError:
        folder = None
    original = folder is not None and is_original(folder)
    if source.vision_tower and not original:
        folder = joined_base(recipe)
    if folder is not None:
        whole, tower = folder, source.vision_tower if original else None
        _refuse_other_bases(source, checkpoint, lambda: identify(find_whole(whole, download=False), tower))


def _refuse_other_bases(source: ModelArguments, checkpoint: Path | None, identity: Callable[[], BaseIdentity]) -> None:
    for trained, remedy in _trained_before(source, checkpoint):
        refuse_other_base(trained, identity, allow=source.allow_other_base, remedy=remedy)


def _trained_before(source: ModelArguments, checkpoint: Path | None) -> Iterator[tuple[Path, str]]:
    """What was trained on the base already, each with what to do if that was another one."""
    allow = "--allow_other_base true goes on with this one"
    if checkpoint is not None:
        yield checkpoint, f"restore that one, or choose another output_dir; {allow}"
    if source.pretrain_mm_mlp_adapter:
        place = Path(source.pretrain_mm_mlp_adapter)
        folder = place if place.is_dir() else place.parent
        if (folder / PROJECTOR_CONFIG).is_file():
            yield folder, f"start from that one, or give the projector of this one; {allow}"
    if source.warm_start and checkpoint is None:
        yield Path(source.warm_start), f"start on that one, or from an adapter of this one; {allow}"


def refuse_adapter(folder: Path) -> None:
    """
    Raises:
        ConfigError: the folder holds a trained adapter, which is no base.
        CheckpointError: it holds no model.
    """
    if detect_kind(folder) == "adapter":
        raise ConfigError(
            f"{folder}: is a trained adapter; give its base folder here, and --warm_start {folder} to start from its "
            "weights, or --resume to go on with its run"
        )


def joined_base(recipe: Recipe) -> Path | None:
    """The base in `output_dir` that an earlier start of this run has joined; None if there is none, or half of one."""
    folder = Path(str(recipe.trainer.get("output_dir")), "base")
    return folder if _read_stamp(folder)[1] is not None else None


def _is_original(name: str) -> bool:
    """Whether it is a folder of the original LLaVA code, which is a whole model but for its vision tower."""
    try:
        return is_original(find_folder(name, "a LLaVA folder, or a language model to join to vision_tower"))
    except CheckpointError:
        # A base that was joined before can still be there; if not, joining it says what is missing.
        return False


def _joined_base(recipe: Recipe, args: MocleTrainingArguments) -> str:
    source = recipe.model
    assert source.model_name_or_path
    assert source.vision_tower
    template = recipe.data.version if recipe.data.version != "plain" else None
    strategies = {None: None, "patch": "default", "full": "full"}
    made_from = {
        "language_model": source.model_name_or_path,
        "vision_tower": source.vision_tower,
        "template": template,
        "vision_feature_layer": source.mm_vision_select_layer,
        "vision_feature_select_strategy": strategies[source.mm_vision_select_feature],
        "seed": args.seed,
    }
    folder = Path(str(args.output_dir), "base")
    with PartialState().main_process_first():
        stamp, found = _read_stamp(folder)
        if found is None:
            with outside_zero3():  # the main process alone does this: it must not partition weights with the others
                _join(folder, made_from)
        elif found != made_from:
            raise ConfigError(
                f"{folder}: was joined from other parts than this recipe names ({stamp} lists them); remove it, or "
                "choose another output_dir"
            )
    return str(folder)


def _read_stamp(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file that says what a base was joined from, and what it says; None where there is no whole base."""
    stamp = folder / _STAMP
    if not stamp.is_file():
        stamp = folder.with_name(_STAMP)  # where earlier versions wrote it, after the folder
    try:
        return stamp, json.loads(stamp.read_text()) if (folder / "config.json").is_file() else None
    except (OSError, ValueError):  # such a version was killed before the file was there, or whole
        return stamp, None


def _join(folder: Path, made_from: dict[str, Any]) -> None:
    """Write the base and its stamp, both at once. What a run that was killed has left in their place goes first."""
    remove_leftovers(folder)
    if (folder / TEMPLATE_FILE).is_file():  # written by `build_llava`, and by nothing else
        os.replace(folder, folder.with_name(f".{folder.name}.unfinished"))
        remove_leftovers(folder)
    refuse_to_overwrite(folder)
    with folder_aside(folder) as aside:
        joined = build_llava(out_dir=aside / folder.name, **made_from)
        (joined / _STAMP).write_text(json.dumps(made_from, indent=2))
        os.replace(joined, folder)


def _cache_features(model: Any, size: int) -> None:
    if is_deepspeed_zero3_enabled():
        # A rank that skips the tower would gather other weights than its peers.
        logger.warning("vision_feature_cache is ignored: under ZeRO-3 every rank runs the tower in every step")
        return
    part = family_of(model.config).parts(model.config).tower
    tower = next(module for name, module in model.named_modules() if f".{name}".endswith(f".{part}"))
    if not hasattr(tower, "feature_cache_size"):
        logger.warning("vision_feature_cache is ignored: %s keeps no features", type(tower).__name__)
        return
    tower.feature_cache_size = size
