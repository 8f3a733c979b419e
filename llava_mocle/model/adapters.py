"""Putting a saved PEFT adapter (MoCLE or plain LoRA) on its base model, and finding its cluster model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import CheckpointError
from llava_mocle.families.registry import family_of
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import ADAPTER_CONFIG, CLUSTERS_FOLDER, ORIGINAL_LORA_EXTRAS

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from llava_mocle.clustering import ClusterModel

_WEIGHTS = "adapter_model.safetensors"


def attach_adapter(model: Any, folder: Path, trainable: bool, autocast_adapter_dtype: bool = True) -> "PeftModel":
    """The base model with the folder's adapter on it, every saved weight in place.

    Raises:
        CheckpointError: weights missing, left over or of another shape; an adapter kind nobody knows.
    """
    from peft import PeftModel
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from safetensors import SafetensorError

    import llava_mocle.adapter  # noqa: F401  (makes PEFT know MoCLE)

    settings = read_json(folder / ADAPTER_CONFIG)
    if settings.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: peft_type is {settings.get('peft_type')!r}, which PEFT does not know."
        )
    if (folder / ORIGINAL_LORA_EXTRAS).is_file():
        raise CheckpointError(
            f"{folder}: is a LoRA checkpoint of the original LLaVA code; convert it and load the result: "
            f"llava-mocle convert --llava-lora {folder} --base BASE --output DIR"
        )
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(f"{folder / _WEIGHTS}: no such file; the checkpoint is incomplete.")
    try:
        adapted = PeftModel.from_pretrained(
            model,
            str(folder),
            is_trainable=trainable,
            autocast_adapter_dtype=autocast_adapter_dtype,
            torch_device=str(model.device),  # by default PEFT reads the weights to a GPU if there is one
        )
        _refuse_other_weights(adapted, folder)
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: its adapter does not fit the base model, or is damaged ({type(error).__name__}: {error})."
        ) from error
    return adapted


def _refuse_other_weights(adapted: "PeftModel", folder: Path) -> None:
    """PEFT only warns where the file and the model name different weights; half an adapter is worse than none."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    config = adapted.get_base_model().config
    # A collapsed checkpoint holds them without naming them: a plain LoRA's configuration has no key for them.
    ends = tuple(f".{name}" for name in family_of(config).parts(config).parameters)
    in_place = {name for name, _ in adapted.named_parameters() if name.endswith(ends)}
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        found = set(file.keys())
    unknown = found - expected - in_place
    for difference, what in ((expected - found, "missing from it"), (unknown, "unknown to the model")):
        if difference:
            raise CheckpointError(
                f"{folder / _WEIGHTS}: {len(difference)} weight(s) are {what}, for example "
                f"{', '.join(sorted(difference)[:3])}; the file and {ADAPTER_CONFIG} do not belong together."
            )


def load_cluster_model(
    folder: Path, encoder: str | Path | None = None, device: "str | torch.device | None" = None
) -> "ClusterModel | None":
    """The cluster model of an adapter folder; None where the adapter does not route by cluster and holds none.

    Args:
        encoder: the sentence encoder's folder, in place of the one recorded.
        device: torch device of the sentence encoder; default: a GPU if there is one.

    Raises:
        CheckpointError: the adapter routes by cluster, but the folder has no cluster model or one of another K.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    routed = settings.get("peft_type") == "MOCLE" and settings.get("router", "cluster") == "cluster"
    clusters = folder / CLUSTERS_FOLDER
    if not clusters.is_dir():
        if routed:
            raise CheckpointError(
                f"{clusters}: no such folder. This checkpoint routes by cluster and cannot run without its cluster "
                "model; copy the folder written by `llava-mocle cluster` there."
            )
        return None
    from llava_mocle.clustering import ClusterModel

    cluster_model = ClusterModel.load(clusters, encoder, device)
    expected = settings.get("num_clusters")
    if routed and expected is not None and cluster_model.num_clusters != expected:
        raise CheckpointError(
            f"{clusters}: holds {cluster_model.num_clusters} clusters, but the adapter was trained with {expected}; "
            "it is another run's cluster model."
        )
    return cluster_model
