"""What a recipe leaves out and its base, its stage 1 or its checkpoint knows: read before weights, and said aloud."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_mocle.data.image_limits import ASPECT_RATIOS
from llava_mocle.data.template_names import TEMPLATE_NAMES, template_name
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.facts import BaseFacts, base_facts
from llava_mocle.model.folders import PROJECTOR_CONFIG, find_folder, is_original, read_recipe
from llava_mocle.model.load import find_base
from llava_mocle.recipe.keys import USUAL_LENGTH
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.setup.model import joined_base

# What stage 1 knows of its projector.
_PROJECTORS = ("mm_vision_select_layer", "mm_vision_select_feature", "image_aspect_ratio")
# transformers' and LLaVA's words -> ours.
_SELECTED = {"default": "patch", "full": "full", "patch": "patch", "cls_patch": "full"}


@dataclass
class Settled:
    """A recipe that leaves nothing to its base.

    Attributes:
        lines: what was found, for the start of a run and for a dry run.
        warnings: where the recipe says otherwise than the base.
    """

    recipe: Recipe
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def settle(recipe: Recipe, checkpoint: Path | None = None, download: bool = True) -> Settled:
    """Fill in what the recipe leaves out (`LEFT_TO_BASE`): from the checkpoint that it goes on from, else its base.

    Args:
        download: whether a base on the hub may be fetched.

    Raises:
        CheckpointError: the base is not here, or damaged.
        ConfigError: nothing says the template, or the base has one that is not here; or the base has no projector that
            could be trained alone, or a tower of its own where the recipe gives another.
    """
    base = base_of(recipe, download)
    facts = base_facts(base, download)
    _refuse_stage_1(recipe, facts, base)
    settled = Settled(recipe)
    kept = read_recipe(checkpoint) if checkpoint else {}
    projector = projector_facts(recipe, download) if recipe.model.vision_tower else {}
    found = {"image_aspect_ratio": facts.image_aspect_ratio} | projector
    usual = min(facts.usual_length, facts.model_max_length)
    length = int(recipe.data.model_max_length or kept.get("model_max_length") or usual)
    data = replace(
        recipe.data,
        version=_template(settled, facts, base, kept.get("version")),
        image_aspect_ratio=_aspect_ratio(settled, str(found["image_aspect_ratio"]), base, kept),
        model_max_length=length,
    )
    if length > facts.model_max_length:
        settled.warnings.append(
            f"model_max_length is {length}, but {base} takes {facts.model_max_length} tokens: what lies "
            "behind them in a longer sample may be learnt badly"
        )
    elif length != USUAL_LENGTH:
        settled.lines.append(f"longest     {length} tokens a sample")
    model = replace(recipe.model, **_features(settled, projector, kept if checkpoint else None))
    adapter = replace(recipe.adapter, lora_target_modules=_targets(settled, facts, kept))
    settled.recipe = replace(recipe, data=data, model=model, adapter=adapter)
    return settled


def _refuse_stage_1(recipe: Recipe, facts: BaseFacts, base: Path) -> None:
    about = {
        "stage": recipe.stage.stage if recipe.stage.stage == "pretrain" else None,
        "pretrain_mm_mlp_adapter": recipe.model.pretrain_mm_mlp_adapter,
        "vision_tower": recipe.model.vision_tower,
    }
    for key, value in about.items():
        if value and not facts.has_stage_1:
            raise ConfigError(
                f"{key} is {value!r}, and {base} is a whole model of the {facts.family} kind, which has no stage 1 and "
                f"no tower or projector of another folder; leave {key} out"
            )


def base_of(recipe: Recipe, download: bool = True) -> Path:
    """The folder whose facts hold for a run: its base, or the language model that a vision tower is joined to.

    Raises:
        CheckpointError: it is not here.
    """
    name = str(recipe.model.model_name_or_path)
    try:
        return find_folder(name, "a LLaVA folder, or a language model to join to vision_tower", download=download)
    except CheckpointError:
        joined = joined_base(recipe) if recipe.model.vision_tower else None
        if joined is None:
            raise
        return joined  # by an earlier start, and its parts are gone


def projector_facts(recipe: Recipe, download: bool = True) -> dict[str, Any]:
    """What stage 1 says of its images and of the features that its projector was trained on; {} where nothing does.

    Raises:
        CheckpointError: its files are damaged.
    """
    path = recipe.model.pretrain_mm_mlp_adapter
    if not path or not Path(path).exists():
        return {}
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if is_original(folder):
        config = read_json(folder / "config.json")
        found = {name: config.get(name) for name in _PROJECTORS}
    else:
        kept = read_recipe(folder)
        found = {name: kept.get(name) for name in _PROJECTORS}
        if (folder / PROJECTOR_CONFIG).is_file():
            try:
                config = read_json(find_base(folder, PROJECTOR_CONFIG, download=download) / "config.json")
            except CheckpointError:
                config = {}  # it has moved: its recipe has to do
            found["mm_vision_select_layer"] = config.get("vision_feature_layer", found["mm_vision_select_layer"])
            found["mm_vision_select_feature"] = config.get(
                "vision_feature_select_strategy", found["mm_vision_select_feature"]
            )
    found["mm_vision_select_feature"] = _SELECTED.get(str(found["mm_vision_select_feature"]))
    return {name: value for name, value in found.items() if value is not None}


def _template(settled: Settled, facts: BaseFacts, base: Path, kept: str | None) -> str:
    """The template's name; adds a line, and a warning where the base was made for another one."""
    data, stage = settled.recipe.data, settled.recipe.stage.stage
    name, own = data.version or kept or facts.template, facts.template
    if name is None or (name == own and own not in TEMPLATE_NAMES):
        said = "nothing there says which prompt template it was made for" if own is None else f"its template is {own!r}"
        raise ConfigError(f"version is not set, and {base}: {said}; set version to one of {', '.join(TEMPLATE_NAMES)}")
    name = template_name(name)
    if name not in facts.template_names:
        raise ConfigError(
            f"version is {name!r}, but {base} is a {facts.family}, which has {', '.join(facts.template_names)} alone: "
            "leave version out"
        )
    if name == own:
        why = "the base's own"
    elif name == "plain" and stage == "pretrain":
        why = "captions alone: stage 1's"
    elif own is None:
        why = "nothing says which one the base was made for"
    else:
        why = f"the base was made for {own}"
        source = f"version is {name!r}" if data.version else f"the checkpoint was trained with version {name!r}"
        remedy = f"; leave version out to train under {own}" if data.version else ""
        settled.warnings.append(
            f"{source}: this run trains under {name}, and the base {base} was made for {own}{remedy}"
        )
    settled.lines.append(f"template    {name} ({why})")
    return name


def _aspect_ratio(settled: Settled, own: str, base: Path, kept: Mapping[str, Any]) -> str:
    name = settled.recipe.data.image_aspect_ratio or kept.get("image_aspect_ratio") or own
    if name not in ASPECT_RATIOS:
        raise ConfigError(
            f"image_aspect_ratio is not set, and {base} was trained with {name!r}, which is not here; set it to "
            f"{' or '.join(ASPECT_RATIOS)}"
        )
    settled.lines.append(f"images      {name}" + ("" if name == own else f" (the base was trained with {own})"))
    return name


def _targets(settled: Settled, facts: BaseFacts, kept: Mapping[str, Any]) -> str:
    """The linears to adapt; adds what is trained beside them."""
    asked = settled.recipe.adapter.lora_target_modules
    names = asked or kept.get("lora_target_modules") or ",".join(facts.parts.targets)
    beside = ", ".join((*facts.parts.connector, *facts.parts.parameters))
    if settled.recipe.stage.stage == "pretrain":
        settled.lines.append(f"{facts.family:<11} trains {beside}")
    else:
        settled.lines.append(f"{facts.family:<11} adapts {names}; trains {beside} beside them")
    return names


def _features(settled: Settled, projector: Mapping[str, Any], kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """`mm_vision_select_layer` and `mm_vision_select_feature`: those of stage 1's projector, where there is one."""
    features = {}
    for key in ("mm_vision_select_layer", "mm_vision_select_feature"):
        asked, own = getattr(settled.recipe.model, key), projector.get(key)
        if asked is None:
            asked = own if kept is None else kept.get(key)
        if own is not None and asked is not None and asked != own:
            settled.warnings.append(
                f"{key} is {asked!r}, but the projector {settled.recipe.model.pretrain_mm_mlp_adapter} was trained on "
                f"{own!r}; leave {key} out to take that"
            )
        features[key] = asked
    return features
