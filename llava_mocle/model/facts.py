"""What a model folder says of itself, read without its weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llava_mocle.errors import CheckpointError
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.families.model_types import is_known
from llava_mocle.families.parts import Parts
from llava_mocle.families.registry import family_of
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import ADAPTER_CONFIG, PROJECTOR_CONFIG, TEMPLATE_FILE, is_original, read_recipe
from llava_mocle.model.load import find_base
from llava_mocle.model.original import text_config_of
from llava_mocle.model.processing import choose_template, load_tokenizer, max_length


@dataclass(frozen=True)
class BaseFacts:
    """What a recipe may leave to the model that it starts from.

    Attributes:
        template: the name of its prompt template; None where nothing says it.
        image_aspect_ratio: how its images were prepared: "pad" (where nothing says it), "square", or another name.
        model_max_length: in tokens.
        family: what kind of model it is: its name for people.
        parts: what it is made of.
        has_stage_1: whether stage 1 can train its projector alone.
    """

    template: str | None
    image_aspect_ratio: str
    model_max_length: int
    family: str
    parts: Parts
    has_stage_1: bool


def base_facts(folder: Path, download: bool = True) -> BaseFacts:
    """The facts of a base folder, an original LLaVA folder, a stage-1 folder or a language model.

    Args:
        download: whether the base of a stage-1 folder may be fetched from the hub.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for config_file in (ADAPTER_CONFIG, PROJECTOR_CONFIG):
        if (folder / config_file).is_file():
            return _with_recipe(base_facts(find_base(folder, config_file, download=download)), read_recipe(folder))
    tokenizer, config = load_tokenizer(folder), _config(folder)
    # A language model on its own is joined to a tower: that makes a LLaVA.
    family = family_of(config) if is_known(config.model_type) else LlavaFamily
    text_config = config.get_text_config()
    try:
        template = choose_template(folder, tokenizer, text_config, read_recipe(folder), family.usual_template)
    except CheckpointError:
        if (folder / TEMPLATE_FILE).is_file():  # it says one, and cannot be read
            raise
        template = None
    aspect = getattr(text_config, "image_aspect_ratio", family.usual_aspect_ratio)
    length = max_length(tokenizer, text_config)
    return BaseFacts(template, aspect, length, family.name, family.parts(config), family.has_stage_1)


def _with_recipe(under: BaseFacts, recipe: dict[str, Any]) -> BaseFacts:
    """The facts of what was trained on a base. Stage 1's template `plain` is not the base's."""
    template = recipe.get("version")
    return replace(
        under,
        template=template if template and template != "plain" else under.template,
        image_aspect_ratio=recipe.get("image_aspect_ratio") or under.image_aspect_ratio,
    )


def _config(folder: Path) -> Any:
    if is_original(folder):
        return text_config_of(read_json(folder / "config.json"))
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}/config.json: cannot be used ({type(error).__name__}: {error}).") from error
