"""What is asked of an export, and what can be refused before any weight is read."""

from dataclasses import dataclass
from pathlib import Path

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.config import PEFT_TYPE
from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.errors import CheckpointError, ConfigError, RoutingError
from llava_mocle.export import commands, gguf
from llava_mocle.export.formats import FORMATS
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.io.folders import refuse_to_overwrite
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import ADAPTER_CONFIG, detect_kind, find_folder
from llava_mocle.model.load import find_whole

# The model types of LLaVA: in transformers' layout, and in the original one's.
_LLAVA = ("llava", "llava_llama", "llava_mistral")
_LANGUAGE_MODEL = LlavaFamily.parts(None).language_model


@dataclass(frozen=True)
class Export:
    """What is exported, and how.

    Attributes:
        model: the folder of a trained checkpoint.
        output: the bundle's folder; it must not exist, or be empty.
        format: one of `FORMATS`.
        clusters: ids; None: all.
        rank: the adapters' largest rank; None: as they are.
        dtype: of the weights, by name; None: as the base was saved.
        base, vision_tower, encoder: parts that have moved.
        allow_other_base: as for `load_model`.
    """

    model: str
    output: str
    format: str = "vllm"
    clusters: list[int] | None = None
    rank: int | None = None
    dtype: str | None = None
    base: str | None = None
    vision_tower: str | None = None
    encoder: str | None = None
    allow_other_base: bool = False


def refuse_early(request: Export) -> list[int]:
    """Refuse what can be known without weights; returns the clusters to export.

    Raises:
        CheckpointError, ConfigError, RoutingError, AssetError: as `run.export`.
    """
    if request.format not in FORMATS:
        raise ConfigError(f"format is {request.format!r}; use one of {', '.join(FORMATS)}")
    if request.rank is not None and request.rank < 1:
        raise ConfigError(f"rank is {request.rank}; it must be at least 1")
    if request.rank is not None and request.format == "merged":
        raise ConfigError("--rank makes adapters smaller, and --format merged has none: leave it out")
    refuse_to_overwrite(request.output)
    folder = find_folder(request.model, "a trained MoCLE checkpoint")
    if detect_kind(folder) != "adapter":
        raise CheckpointError(f"{request.model}: has no adapter to export; give a folder that holds {ADAPTER_CONFIG}")
    if read_json(folder / ADAPTER_CONFIG).get("peft_type") != PEFT_TYPE:
        raise CheckpointError(
            f"{request.model}: is a plain LoRA of PEFT, and a bundle is for adapters that are routed. Such a LoRA is "
            "already what engines read, if its base holds the trained projector."
        )
    config = MocleConfig.from_pretrained(str(folder))
    if config.router in LEARNED_ROUTERS:
        raise RoutingError(
            f"{request.model}: has router={config.router!r}, which decides anew for every "
            f"{'token' if config.router == 'token' else 'instruction'}: no plain LoRA equals it, so no engine can "
            "serve it. Use `llava-mocle generate`, or train with router cluster or dataset."
        )
    if config.router == "none":
        raise RoutingError(
            f"{request.model}: is a single LoRA, which has no clusters to choose from. `llava-mocle collapse` writes "
            "it for PEFT."
        )
    chosen = list(range(config.num_clusters or 0)) if request.clusters is None else sorted(set(request.clusters))
    for cluster in chosen or [None]:  # type: ignore[list-item]
        config.check_cluster(cluster)
    model_type = read_json(find_base_of(request, folder) / "config.json").get("model_type")
    if model_type not in _LLAVA:
        raise CheckpointError(
            f"{request.model}: its base is a {model_type}, and only LLaVA models can be exported. Merge a cluster in "
            "Python: model.merge_and_unload(cluster=0).save_pretrained(FOLDER)"
        )
    outside = [site for site in config.sites or [] if f".{_LANGUAGE_MODEL}." not in f".{site}."]
    if outside and request.format != "merged":
        raise CheckpointError(
            f"{request.model}: adapts {outside[0]}, and engines apply adapters to the language model alone; use "
            "--format merged"
        )
    if request.format == "gguf":
        gguf.find_converters()
    if request.format == "vllm":
        own = config.r * (config.top_k + int(config.universal_expert))
        commands.vllm_rank(min(own, request.rank or own))
    return chosen


def find_base_of(request: Export, folder: Path) -> Path:
    """The folder that holds the whole model under a checkpoint."""
    return find_whole(folder) if request.base is None else find_whole(find_folder(request.base, "a base folder"))
