"""A model folder of any kind -> a model ready to run, with all that belongs to it.

The kind is read from the folder's files: a base folder (transformers' layout, of any family), a stage-1 folder
(projector), a checkpoint (PEFT adapter, MoCLE or plain LoRA), or an original LLaVA-1.5 folder.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from llava_mocle.data.encoder import Encoder
from llava_mocle.errors import CheckpointError
from llava_mocle.families.family import Family
from llava_mocle.families.registry import family_of
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.adapters import attach_adapter, load_cluster_model
from llava_mocle.model.base_identity import identify, refuse_other_base
from llava_mocle.model.folders import (
    ADAPTER_CONFIG,
    PROJECTOR_CONFIG,
    Kind,
    detect_kind,
    find_folder,
    read_recipe,
)
from llava_mocle.model.original import load_original, original_tower
from llava_mocle.model.placement import choose_attention, parse_dtype
from llava_mocle.model.processing import (
    choose_template,
    has_image_processor,
    has_tokenizer,
    load_image_processor,
    load_tokenizer,
    max_length,
)
from llava_mocle.model.projector import load_projector
from llava_mocle.model.quantization import NOT_QUANTIZED, Quantization, loading_options, settle_kernels
from llava_mocle.model.weights import load_whole

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel


@dataclass
class LoadedModel:
    """A model and everything that must go with it.

    Attributes:
        model: the model of transformers', or the `PeftModel` around it.
        family: what kind of model it is, with its tokenizer and image processor.
        template: name of the prompt template.
        kind: "base", "stage1", "adapter" or "legacy".
        image_aspect_ratio: "pad" or "square", as the model was trained.
        model_max_length: in tokens.
        path: the folder that was loaded.
        base_path: the folder under it that holds the whole model; `path` itself for a base or legacy folder.
        base_record: the identity of the base, as JSON, for the checkpoints of a run that starts from it.
        tower_path: the folder of an original folder's vision tower; None for every other base.
        cluster_model: what routes the instructions; None where the folder has none and needs none.
        recipe: the resolved recipe of a checkpoint, else {}.
    """

    model: Any
    family: Family
    template: str
    kind: Kind
    image_aspect_ratio: str
    model_max_length: int
    path: Path
    base_path: Path
    tower_path: Path | None = None
    base_record: str | None = None
    cluster_model: "ClusterModel | None" = None
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        """The family's: a fast one."""
        return self.family.tokenizer

    @property
    def image_processor(self) -> Any:
        """The family's, on the PIL backend."""
        return self.family.image_processor

    @property
    def image_token_id(self) -> int:
        """The id of the token that stands for images."""
        return self.family.image_token_id

    @property
    def image_tokens_per_image(self) -> int:
        """How many of it stand for one image, in a family where every image takes as many."""
        family: Any = self.family
        return family.image_tokens_per_image

    def encoder(self, max_length: int | None = None, system: str | None = None) -> Encoder:
        """What makes samples and prompts for the model, under its template.

        Args:
            system: a system prompt in place of the template's own.

        Raises:
            ConfigError: the template has no place for one.
        """
        template = self.template if system is None else self.family.template(self.template, system)
        return self.family.encoder(template, aspect_ratio=self.image_aspect_ratio, max_length=max_length)


@dataclass(frozen=True)
class _Options:
    """How the base model under anything is loaded."""

    dtype: Any
    attn: str
    device: torch.device | None
    vision_tower: str | Path | None
    allow_other_base: bool
    quantization: Quantization

    def attention(self, dtype: Any) -> str:
        return choose_attention(self.attn, self.device, dtype)

    def quantize(self, model_class: Any, config: Any, dtype: Any) -> dict[str, Any]:
        return loading_options(model_class, config, self.quantization, dtype, self.device)


def load_model(
    path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn: str = "auto",
    trainable: bool = False,
    *,
    base: str | Path | None = None,
    template: str | None = None,
    vision_tower: str | Path | None = None,
    encoder: str | Path | None = None,
    autocast_adapter_dtype: bool = True,
    allow_other_base: bool = False,
    quantization: Quantization = NOT_QUANTIZED,
) -> LoadedModel:
    """Load a model folder of any kind.

    Args:
        path: the folder (or `ORG/NAME` of one in the local Hugging Face cache).
        dtype: of the weights: "auto" (as saved), "float32", "bfloat16", "float16" or a torch dtype.
        device: where to put the model and its sentence encoder; "auto" takes a GPU if there is one. None leaves the
            model on the CPU for a trainer to place, and the encoder takes a GPU if there is one.
        attn: "auto", "flash_attention_2", "sdpa" or "eager".
        trainable: training mode, with gradients for a checkpoint's adapter or all of a base model; otherwise
            evaluation mode and no gradients.
        base: the base folder, in place of the one a checkpoint names.
        template: the prompt template, in place of the one the folder says.
        vision_tower: for an original LLaVA folder: its CLIP tower, in place of the one its config names.
        encoder: the cluster model's sentence encoder, in place of the one it records.
        autocast_adapter_dtype: PEFT's: keep 16 bit adapter weights in float32.
        allow_other_base: go on, with a warning, on a base that is not the one that the checkpoint was trained on.
        quantization: how the linears of the language model are stored; the files stay as they are.

    Raises:
        CheckpointError: a folder or file is missing or damaged, parts do not fit, or the base is another one than the
            checkpoint was trained on; names it and the remedy.
        ConfigError: an argument is wrong.
    """
    folder = find_folder(path, "a model folder")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device) if device else None
    options = _Options(parse_dtype(dtype), attn, place, vision_tower, allow_other_base, quantization)
    kind = detect_kind(folder)
    if kind == "adapter":
        cluster_model = load_cluster_model(folder, encoder, device)
        under = _load_under(folder, ADAPTER_CONFIG, base, template, options)
        model = attach_adapter(under.model, folder, trainable, autocast_adapter_dtype)
        loaded = replace(under, model=model, kind="adapter", cluster_model=cluster_model)
    else:
        loaded = _load_whole(folder, kind, base, template, options)
    if device is not None:
        loaded.model.to(device)
    if trainable:
        loaded.model.train()
    else:
        loaded.model.requires_grad_(False).eval()
    return loaded


def _load_whole(folder: Path, kind: Kind, base: Any, template: str | None, options: _Options) -> LoadedModel:
    """A folder that needs no adapter: stage-1, base or original."""
    if kind == "stage1":
        under = _load_under(folder, PROJECTOR_CONFIG, base, template, options)
        load_projector(under.model, folder)
        return replace(under, kind="stage1")
    tower = None
    if kind == "legacy":
        tower = original_tower(folder, options.vision_tower)
        model, tokenizer, image_processor = load_original(
            folder, options.vision_tower, options.dtype, options.attention, options.quantize
        )
    else:
        model = _load_base(folder, options)
        tokenizer, image_processor = load_tokenizer(folder), load_image_processor(folder)
    settle_kernels(model)
    kind_of_model, text_config = family_of(model.config), model.config.get_text_config()
    return LoadedModel(
        model=model,
        family=kind_of_model.open(model.config, folder, tokenizer, image_processor),
        template=template
        or choose_template(folder, tokenizer, text_config, read_recipe(folder), kind_of_model.usual_template),
        kind=kind,
        image_aspect_ratio=getattr(text_config, "image_aspect_ratio", kind_of_model.usual_aspect_ratio),
        model_max_length=max_length(tokenizer, text_config),
        path=folder,
        base_path=folder,
        tower_path=tower,
    )


def _load_under(folder: Path, config_file: str, base: Any, template: str | None, options: _Options) -> LoadedModel:
    """The model under a checkpoint, with the checkpoint's own tokenizer, image processor and recipe."""
    recipe = read_recipe(folder)
    base_folder = find_base(folder, config_file, base)
    kind = detect_kind(base_folder)
    if kind == "adapter":
        raise CheckpointError(
            f"{folder / config_file}: its base {base_folder} is itself an adapter; merge that one into a base first."
        )
    refuse_other_base(
        folder, lambda: identify(find_whole(base_folder), options.vision_tower), allow=options.allow_other_base
    )
    version = recipe.get("version")
    # Stage 1's template `plain` drops the question, so a stage-1 model answers with the template of its base.
    under = _load_whole(base_folder, kind, None, template or (None if version == "plain" else version), options)
    family = under.family
    if has_tokenizer(folder) or has_image_processor(folder):
        tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else family.tokenizer
        image_processor = load_image_processor(folder) if has_image_processor(folder) else family.image_processor
        family = family.open(family.config, folder, tokenizer, image_processor)
    return replace(
        under,
        family=family,
        image_aspect_ratio=recipe.get("image_aspect_ratio") or under.image_aspect_ratio,
        model_max_length=recipe.get("model_max_length") or under.model_max_length,
        path=folder,
        recipe=recipe,
    )


def find_whole(folder: Path, download: bool = True) -> Path:
    """The folder that holds the whole model under a folder of any kind; `folder` itself if it does.

    Args:
        download: whether a base on the hub may be fetched.

    Raises:
        CheckpointError: it is no model folder, or a base is not there.
    """
    marks = {"adapter": ADAPTER_CONFIG, "stage1": PROJECTOR_CONFIG}
    mark = marks.get(detect_kind(folder))
    return folder if mark is None else find_whole(find_base(folder, mark, download=download), download)


def find_base(folder: Path, config_file: str, base: Any = None, download: bool = True) -> Path:
    """The base that a stage-1 folder or an adapter was trained on: `base`, or what its configuration names.

    Raises:
        CheckpointError: it names none, or one that is not there.
    """
    if base is not None:
        return find_folder(base, "a base folder (given as base)")
    name = read_json(folder / config_file).get("base_model_name_or_path")
    if not name:
        raise CheckpointError(
            f"{folder / config_file}: base_model_name_or_path is {name!r}, so its base folder is unknown; pass it as "
            "base=... (--base on the command line)."
        )
    return find_folder(
        name,
        f"the base folder that {folder / config_file} names",
        "If it has moved, pass its new place as base=... (--base on the command line).",
        beside=folder,
        download=download,
    )


def _load_base(folder: Path, options: _Options) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}/config.json: cannot be used ({type(error).__name__}: {error}).") from error
    family = family_of(config)
    config = family.settled(config, folder)
    dtype = (config.dtype or torch.float32) if options.dtype == "auto" else options.dtype
    model_class = family.model_class(config)
    return load_whole(
        model_class,
        folder,
        refuse_unexpected=True,
        ignore=family.derived_weights,
        config=config,
        dtype=dtype,
        attn_implementation=options.attention(dtype),
        use_safetensors=True,
        **options.quantize(model_class, config, dtype),
    )
